from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import shapley_cuda

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "python_tests",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_the_installed_packages() -> None:
    assert shapley_cuda.__version__ == version("shapley_cuda") == shapley_cuda.build_info().version


def test_build_info_tells_what_runs_here() -> None:
    info = shapley_cuda.build_info()
    assert info.torch_running == torch.__version__
    assert info.threads == torch.get_num_threads()
    assert info.devices[0] == "cpu"
    assert info.cpu_isa in ("baseline", "avx2", "avx512")
    assert info.cuda == bool(info.cuda_version) == bool(info.cuda_archs)


def test_cpu_isa_can_be_lowered_and_integers_stay_the_same() -> None:
    code = """
import shapley_cuda
from shapley_cuda.ops import sample_permutations
print(shapley_cuda.build_info().cpu_isa, sample_permutations(3, 0, 7, 129).tolist())
"""
    here, *permutations = run(code).stdout.split(maxsplit=1)
    lowered, *same = run(code, SHAPLEY_ISA="baseline").stdout.split(maxsplit=1)
    assert lowered == "baseline"
    assert here == shapley_cuda.build_info().cpu_isa
    assert same == permutations != []


def test_import_without_the_native_module_says_how_to_build_it() -> None:
    outcome = run("import sys; sys.modules['shapley_cuda._C'] = None; import shapley_cuda")
    assert outcome.returncode == 1
    assert "ImportError: shapley_cuda's native module cannot be loaded" in outcome.stderr
    assert "pip install ." in outcome.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SHAPLEY_CUDA": "1"}, "SHAPLEY_CUDA=1 needs nvcc: install the CUDA toolkit and put nvcc on PATH"),
        ({"SHAPLEY_CUDA": "1", "CUDACXX": "/nowhere/nvcc"}, "SHAPLEY_CUDA=1 needs nvcc"),
        ({"SHAPLEY_CUDA": "yes"}, "SHAPLEY_CUDA must be 0 or 1, got 'yes'"),
    ],
)
def test_setup_that_cannot_build_cuda_says_why(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    outcome = subprocess.run(
        [sys.executable, str(ROOT / "setup.py"), "build_ext", "--build-lib", str(tmp_path)],
        env={"PATH": "", "HOME": str(tmp_path), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode != 0
    assert message in outcome.stderr
