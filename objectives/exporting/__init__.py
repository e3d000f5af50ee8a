"""Exporting and loading code shared by several runtimes."""

from objectives.exporting.accelerator import AcceleratorProgram
from objectives.exporting.activation_ranges import refuses_calibration
from objectives.exporting.codes import (
    CODED,
    coded_weights,
    describe_weights,
    layout,
    match_recurrent,
    match_rows,
    refuses_codes,
    remarks,
    zero_points,
)
from objectives.exporting.cuda_graph import RECORDED, Replayed
from objectives.exporting.lzma_files import compress_files, decompressed_files, readable
from objectives.exporting.quiet import quiet, without_module
from objectives.exporting.stored_modules import Rounded, rounded

__all__ = [
    "CODED",
    "RECORDED",
    "AcceleratorProgram",
    "Replayed",
    "Rounded",
    "coded_weights",
    "compress_files",
    "decompressed_files",
    "describe_weights",
    "expressions",
    "in_turns",
    "layout",
    "match_recurrent",
    "match_rows",
    "onnx_graphs",
    "quiet",
    "readable",
    "refuses_calibration",
    "refuses_codes",
    "remarks",
    "rounded",
    "sparse_graphs",
    "stored_modules",
    "torch_modules",
    "without_module",
    "zero_points",
]
