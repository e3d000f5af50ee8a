"""What several runtimes need to write and to load their files."""

from objectives.exporting.accelerator import AcceleratorProgram
from objectives.exporting.activation_ranges import uncalibrated
from objectives.exporting.codes import (
    CODED,
    coded_weights,
    layout,
    refuses_codes,
    remarks,
    rows_matched,
    sequence_matched,
    spelled,
    zeros,
)
from objectives.exporting.cuda_graph import RECORDED, Replayed
from objectives.exporting.lzma_files import code_files, decoded_files
from objectives.exporting.quiet import absent, quiet
from objectives.exporting.stored_modules import Rounded, rounded

__all__ = [
    "CODED",
    "RECORDED",
    "AcceleratorProgram",
    "Replayed",
    "Rounded",
    "absent",
    "code_files",
    "coded_weights",
    "decoded_files",
    "in_turns",
    "layout",
    "onnx_graphs",
    "quiet",
    "refuses_codes",
    "remarks",
    "rounded",
    "rows_matched",
    "sequence_matched",
    "sparse_graphs",
    "spelled",
    "stored_modules",
    "torch_modules",
    "uncalibrated",
    "zeros",
]
