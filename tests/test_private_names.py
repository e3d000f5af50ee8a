"""Private names of libraries: each is used in one file, which says why no public one serves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for top in ("spaces", "objectives", "search") for path in (ROOT / top).rglob("*.py")
)
PRIVATE = re.compile(r"_[A-Za-z]\w*(?<!__)")
DOCUMENTED = {"_exit"}
"""Names of Python's own documentation that start with an underscore."""
USED = {
    "spaces/modules/module_tables.py": {
        "_buffers",
        "_modules",
        "_non_persistent_buffers_set",
        "_parameters",
    },
    "spaces/modules/operations.py": {
        "_python_dispatch",
        "_scaled_dot_product_flash_attention_for_cpu",
    },
    "spaces/modules/structure/heads.py": {"_qkv_same_embed_dim"},
    "spaces/modules/structure/readers.py": {"_reversed_padding_repeated_twice"},
    "spaces/devices/cpu.py": {
        "_is_mkldnn_bf16_supported",
        "_is_mkldnn_fp16_supported",
    },
    "objectives/kernels/torch_private.py": {
        "_convert_weight_to_int4pack",
        "_convert_weight_to_int4pack_for_cpu",
        "_int_mm",
        "_make_per_channel_quantized_tensor",
        "_make_per_tensor_quantized_tensor",
        "_scaled_mm",
        "_weight_int4pack_mm",
        "_weight_int4pack_mm_for_cpu",
        "_weight_int8pack_mm",
    },
    "objectives/placement/stages.py": {
        "_assert_tensor_metadata",
        "_ops",
        "_schema",
    },
    "objectives/runtimes/inductor/package.py": {"_C", "_aoti", "_inductor"},
    "search/study/optuna_trials.py": {"_trial_id"},
}
"""The files that may use private names of libraries, with the names: what upgrades may break."""
KNOWN = {name for names in USED.values() for name in names}


def used(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a file uses: attributes, imports, keywords; in strings those KNOWN."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(name)) if name in KNOWN:
                yield name
            case ast.Import(names=names):
                yield from (part for alias in names for part in alias.name.split("."))
            case ast.ImportFrom(module=module, names=names):
                yield from (module or "").split(".")
                yield from (alias.name for alias in names)


def defined(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a file defines, and the attributes that it gives to `self`."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def test_private_names_of_libraries() -> None:
    """A file uses those that USED gives it, all of them, and no other file does."""
    uses = {}
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = {name for name in used(tree) if PRIVATE.fullmatch(name)}
        if foreign := names - set(defined(tree)) - DOCUMENTED:
            uses[str(path.relative_to(ROOT))] = foreign
    assert uses == USED


def test_each_private_name_is_used_in_one_file() -> None:
    names = [name for group in USED.values() for name in group]
    assert len(names) == len(set(names))
