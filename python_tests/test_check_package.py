"""What tools/check_package.py refuses in an sdist and a wheel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import check_package
import pytest

MODULE = "shapley_cuda/_C.cpython-311-x86_64-linux-gnu.so"
PACKAGE = {"shapley_cuda/__init__.py", "shapley_cuda/py.typed", "shapley_cuda/assets/lenet5.safetensors"}
METADATA = {"shapley_cuda-0.1.0.dist-info/METADATA", "shapley_cuda-0.1.0.dist-info/licenses/LICENSE"}

needs_a_compiler = pytest.mark.skipif(
    not all(map(shutil.which, ("gcc", "readelf"))), reason="compiles modules and reads them: gcc, readelf"
)


def compiled(folder: Path, *options: str, text: str = "") -> bytes:
    """A native module, stripped if the options say so."""
    (folder / "module.c").write_text(f'const char *text(void) {{ return "{text}"; }}\n')
    command = ["gcc", "-shared", "-fPIC", "module.c", "-o", "module.so", *options]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "module.so").read_bytes()


def faults(module: bytes, *, without: str = "", places: tuple[str, ...] = (), **more: bytes) -> list[str]:
    files = dict.fromkeys(PACKAGE | METADATA, b"text") | {MODULE: module} | more
    return list(check_package.faults_of_wheel({n: c for n, c in files.items() if n != without}, PACKAGE, places))


def test_sdist_must_be_what_git_has() -> None:
    made = {"PKG-INFO", "setup.cfg", "shapley_cuda.egg-info/SOURCES.txt"}
    assert list(check_package.faults_of_sdist({"setup.py", "csrc/a.cpp"} | made, {"setup.py", "csrc/a.cpp"})) == []
    assert list(check_package.faults_of_sdist({"setup.py", "shapley_cuda/_C.so"}, {"setup.py", "csrc/a.cpp"})) == [
        "the sdist lacks csrc/a.cpp",
        "the sdist holds shapley_cuda/_C.so, which git does not have",
    ]


@needs_a_compiler
def test_wheel_of_the_package_and_a_stripped_module_is_good(tmp_path: Path) -> None:
    module = compiled(tmp_path, "-s", text="csrc/ops/marginals.cpp, /proc/self/maps")
    assert faults(module, places=("/home/builder/",)) == []


@needs_a_compiler
@pytest.mark.parametrize(
    ("without", "more", "fault"),
    [
        ("shapley_cuda/py.typed", {}, "the wheel lacks shapley_cuda/py.typed"),
        ("shapley_cuda/assets/lenet5.safetensors", {}, "the wheel lacks shapley_cuda/assets/lenet5.safetensors"),
        ("shapley_cuda-0.1.0.dist-info/licenses/LICENSE", {}, "the wheel lacks licenses/LICENSE in its metadata"),
        ("", {"python_tests/a.py": b""}, "the wheel holds python_tests/a.py, which the sdist does not have"),
        ("", {"shapley_cuda/a.pyc": b""}, "the wheel holds shapley_cuda/a.pyc, which the sdist does not have"),
        ("", {"shapley_cuda/py.typed": b"in /home/builder/src"}, "shapley_cuda/py.typed names /home/builder/"),
        (MODULE, {}, "the wheel must hold one native module, got none"),
    ],
)
def test_wheel_that_lacks_or_holds_another_file_is_refused(
    without: str, more: dict[str, bytes], fault: str, tmp_path: Path
) -> None:
    assert faults(compiled(tmp_path, "-s"), without=without, places=("/home/builder/",), **more) == [fault]


@needs_a_compiler
@pytest.mark.parametrize(
    ("options", "text", "fault"),
    [
        (["-g"], "", f"{MODULE} has debugging symbols, .debug_info"),
        ([], "", f"{MODULE} has debugging symbols, .symtab"),
        (["-s", "-Wl,-rpath,/opt/torch/lib"], "", f"{MODULE} looks for libraries by itself: R"),
        (["-s", "-Wl,--no-as-needed", "-lanother"], "", f"{MODULE} needs libanother.so, which is neither torch's nor"),
        (["-s"], "/srv/build/csrc/ops/marginals.cpp", f"{MODULE} names /srv/build/csrc/ops/marginals.cpp"),
        (["-s"], "at /mnt/python/include/object.h:7", f"{MODULE} names /mnt/python/include/object.h"),
    ],
)
def test_module_with_debugging_symbols_or_places_of_its_own_is_refused(
    options: list[str], text: str, fault: str, tmp_path: Path
) -> None:
    compiled(tmp_path, "-s")
    (tmp_path / "module.so").rename(tmp_path / "libanother.so")
    found = faults(compiled(tmp_path, "-L.", *options, text=text))
    assert any(one.startswith(fault) for one in found), found


def test_wheel_above_the_limit_is_refused() -> None:
    assert list(check_package.faults_of_size(check_package.MOST_MIB)) == []
    assert list(check_package.faults_of_size(8.26)) == ["the wheel must be no larger than 8.0 MiB, got 8.3"]


def test_places_of_this_machine_are_the_source_tree_and_the_environment() -> None:
    places = check_package.places_here()
    assert f"{check_package.ROOT}/" in places
    assert "/" not in places
    assert all(place.endswith("/") for place in places)
