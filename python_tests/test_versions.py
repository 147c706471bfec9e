"""pyproject.toml says each version once; what cannot read it there agrees with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import shapley_cuda

ROOT = Path(__file__).parent.parent


def in_file(pattern: str, name: str) -> list[str]:
    """What a pattern's group finds in a file of the source tree."""
    return re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def only(pattern: str) -> str:
    """The one version that pyproject.toml says, perhaps in several places."""
    (found,) = set(in_file(pattern, "pyproject.toml"))
    return found


VERSION = only(r'^version = "(.+)"$')
PYTHON = only(r'^requires-python = ">=(.+)"$')
TORCH = only(r'"torch>=([\d.]+)"')


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("CHANGELOG.md", r"\A(?:(?!^## ).*\n)*## ([\d.]+)"),  # the newest is the first
    ],
)
def test_version_of_the_package_is_the_same_everywhere(name: str, pattern: str) -> None:
    assert in_file(pattern, name) == [VERSION]


def test_version_of_the_native_module_is_that_of_pyproject() -> None:
    assert shapley_cuda.__version__ == VERSION


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pyproject.toml", r'^python_version = "(.+)"$'),
        ("README.md", r"Python (\d+\.\d+) or later"),
        ("CMakeLists.txt", r"find_package\(Python (\S+) REQUIRED"),
    ],
)
def test_oldest_python_is_the_same_everywhere(name: str, pattern: str) -> None:
    assert set(in_file(pattern, name)) == {PYTHON}


def test_oldest_python_is_what_style_is_checked_for() -> None:
    assert only(r'^target-version = "py(\d+)"$') == PYTHON.replace(".", "")


@pytest.mark.parametrize("name", ["README.md", "shapley_cuda/build.py"])
def test_oldest_torch_is_the_same_in_words(name: str) -> None:
    assert set(in_file(r"torch (\d+\.\d+)\s+(?:and|or)\s+later", name)) == {TORCH}


def test_oldest_torch_is_what_the_native_module_is_built_for() -> None:
    (target,) = in_file(r"TORCH_TARGET_VERSION=0x([0-9a-f]{16})", "CMakeLists.txt")
    major, minor = (int(part, 16) for part in (target[:2], target[2:4]))
    assert f"{major}.{minor}" == TORCH
