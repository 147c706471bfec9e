"""Who may call whom. Read from the sources, so that a violation fails whether or not it is executed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shapley_cuda"
KERNELS = ROOT / "csrc" / "kernels"

# Each module imports only those to its left.
LAYERS = (
    "modes", "batch_reader", "build", "environment", "fakes", "convolution", "ops", "payoffs", "files", "optional",
    "mapped", "estimate", "memory", "counting", "latency", "heads", "groups", "masking", "exactness", "game_data",
    "tracing", "split", "prefix", "epilogue", "paths", "samplers", "walks", "game", "comparison", "oracle", "rankers",
    "plans", "surgery", "kept", "planning", "storage", "export", "run_record", "size_curve", "pruning", "report",
    "html_report", "loading", "demo", "study", "cli", "plugins",
)  # fmt: skip
# Standing apart: of the package they import what everybody may, and serve only those who show something.
EVERYBODYS = ("modes", "batch_reader")
APART = ("networks", "datasets", "training", "recalibration")
SERVED = ("size_curve", "pruning", "loading", "demo", "study", "cli")

# A folder with an __init__.py is one module, of all its files.
SOURCES = {path.stem: [path] for path in PACKAGE.glob("*.py") if path.stem != "__init__"} | {
    folder.parent.name: sorted(folder.parent.rglob("*.py")) for folder in PACKAGE.glob("*/__init__.py")
}
MODULES = sorted(SOURCES)
NOT_IN_KERNELS = re.compile(r"^(torch|ATen|c10|caffe2|pybind11)/|^Python\.h$|^\.\.|\bops/")


def imported_modules(source: str, depth: int = 0) -> set[str]:
    """Modules of the package that a source imports, anywhere in it; ``depth`` folders below the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found |= {name.split(".")[1] for name in names if name.startswith("shapley_cuda.")}
            found |= {"__init__" for name in names if name == "shapley_cuda"}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module.split(".")[0] != "shapley_cuda":
                continue
            if node.level == depth + 1 or node.level == 0:
                inner = module if node.level else module.partition(".")[2]
                found |= {inner.split(".")[0]} if inner else {alias.name for alias in node.names}
    return found - {"_C"}


def imports_of(module: str) -> set[str]:
    """What a module imports of the package; what the files of a folder import of each other is their own affair."""
    depths = {path: len(path.relative_to(PACKAGE).parts) - 1 for path in SOURCES[module]}
    return set().union(*(imported_modules(path.read_text(), depth) for path, depth in depths.items())) - {module}


def touches_torch_ops(source: str) -> bool:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("ops", "_ops"):
            if isinstance(node.value, ast.Name) and node.value.id == "torch":
                return True
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            if module.startswith(("torch.ops", "torch._ops")):
                return True
            if module == "torch" and {"ops", "_ops"} & {alias.name for alias in node.names}:
                return True
        elif isinstance(node, ast.Import) and any(a.name.startswith(("torch.ops", "torch._ops")) for a in node.names):
            return True
    return False


def includes(source: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', source, flags=re.MULTILINE)


def test_readers_of_sources_see_what_they_must() -> None:
    assert imported_modules("from . import ops\nfrom .groups import Group") == {"ops", "groups"}
    assert imported_modules("def f():\n    from shapley_cuda.cli import app") == {"cli"}
    assert imported_modules("import shapley_cuda.game\nfrom shapley_cuda import report, _C") == {"game", "report"}
    assert imported_modules("import shapley_cuda") == {"__init__"}
    assert imported_modules("import torch\nfrom torch import nn") == set()
    assert imported_modules("from ..game import ChannelGame\nfrom .base import rank", depth=1) == {"game"}
    assert touches_torch_ops("x = torch.ops.shapley.marginals(v)")
    assert touches_torch_ops("from torch import ops")
    assert not touches_torch_ops("from . import ops\nops.marginals(v)")
    assert includes('#include <torch/all.h>\n  #  include "isa.h"\n// #include is a word') == ["torch/all.h", "isa.h"]
    for header in ("torch/csrc/stable/tensor.h", "ATen/ATen.h", "Python.h", "../ops/checks.h"):
        assert NOT_IN_KERNELS.search(header)


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == {*LAYERS, *APART}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_those_to_its_left(module: str) -> None:
    allowed = set(LAYERS[: LAYERS.index(module)]) if module in LAYERS else set(EVERYBODYS)
    if module in SERVED:
        allowed |= set(APART)
    assert imports_of(module) <= allowed


@pytest.mark.parametrize("module", MODULES)
def test_only_the_ops_modules_touch_torch_ops(module: str) -> None:
    touch = any(touches_torch_ops(path.read_text()) for path in SOURCES[module])
    assert touch == (module in ("ops", "convolution"))


def test_only_the_build_module_loads_the_native_module() -> None:
    pattern = re.compile(r"import _C\b|\b_C\.")
    loading = [module for module in MODULES for path in SOURCES[module] if pattern.search(path.read_text())]
    assert loading == ["build"]


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.*")), ids=lambda path: path.name)
def test_kernels_know_no_tensors(path: Path) -> None:
    source = path.read_text()
    assert not [header for header in includes(source) if NOT_IN_KERNELS.search(header)]
    assert not re.search(r"\b(at|c10|torch)::", source)


def test_kernels_are_where_this_looks_for_them() -> None:
    assert {"loss_difference.h", "loss_difference.cpp", "loss_difference.cu"} <= {p.name for p in KERNELS.iterdir()}
