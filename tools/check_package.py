"""Look into an sdist and the wheel that was built from it, and refuse what users should not get.

    python tools/check_package.py dist/shapley_cuda-0.1.0.tar.gz dist/shapley_cuda-0.1.0-*.whl

The sdist must hold what git has, and nothing else. The wheel must hold the package of that sdist, one native module and
its metadata; no file may name a place on the machine that built it; the native module must be stripped, find no
libraries by places of its own, and need none but torch's and the system's; and the size has a limit.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_MIB = 8.0

_NATIVE = re.compile(r"shapley_cuda/_C\.[\w.-]+\.so")
_MADE_BY_SETUPTOOLS = re.compile(r"PKG-INFO|setup\.cfg|shapley_cuda\.egg-info/[^/]+")
_SOURCE_PATH = re.compile(
    rb"(?<![\w.+/-])/(?!proc/|dev/|sys/)[\w.+-]+(?:/[\w.+-]+)+\.(?:c|cc|cpp|cu|cuh|h|hpp|o|py|so)\b"
)
_DEBUG_SECTION = re.compile(r"\s(\.(?:z?debug_|symtab|strtab|nv_debug|gnu_debug)\S*)")
_RUN_PATH = re.compile(r"\((RPATH|RUNPATH)\)\s+(.*)")
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[(.*)\]")
_FOUND_ANYWHERE = re.compile(r"lib(torch|torch_cpu|c10|stdc\+\+|gcc_s|c|m|rt|dl|pthread)\.so|ld-")


def faults_of_sdist(files: Collection[str], tracked: Collection[str]) -> Iterator[str]:
    """What is wrong with an sdist's files, given those that git has."""
    files = {name for name in files if not _MADE_BY_SETUPTOOLS.fullmatch(name)}
    yield from (f"the sdist lacks {name}" for name in sorted(set(tracked) - files))
    yield from (f"the sdist holds {name}, which git does not have" for name in sorted(files - set(tracked)))


def faults_of_wheel(files: Mapping[str, bytes], package: Collection[str], places: Collection[str]) -> Iterator[str]:
    """What is wrong with a wheel's files.

    Args:
        files: their contents, by their names.
        package: names of the package's files in the sdist.
        places: folders of the machine that built it.
    """
    modules = [name for name in files if _NATIVE.fullmatch(name)]
    if len(modules) != 1:
        yield f"the wheel must hold one native module, got {modules or 'none'}"
    metadata = {name for name in files if re.match(r"shapley_cuda-[^/]+\.dist-info/", name)}
    held = set(files) - metadata - set(modules)
    yield from (f"the wheel lacks {name}" for name in sorted(set(package) - held))
    yield from (f"the wheel holds {name}, which the sdist does not have" for name in sorted(held - set(package)))
    for name in ("METADATA", "licenses/LICENSE"):
        if not any(path.endswith(f".dist-info/{name}") for path in metadata):
            yield f"the wheel lacks {name} in its metadata"
    for name, content in files.items():
        yield from (f"{name} names {place}" for place in places if place.encode() in content)
    for name in modules:
        yield from (f"{name} names {path.decode()}" for path in sorted(set(_SOURCE_PATH.findall(files[name]))))
        yield from faults_of_module(name, files[name])


def faults_of_module(name: str, content: bytes) -> Iterator[str]:
    """What is wrong with a native module, as readelf has it."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(content)
        file.flush()
        command = ["readelf", "--wide", "--section-headers", "--dynamic", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    yield from (f"{name} has debugging symbols, {section}" for section in _DEBUG_SECTION.findall(told))
    yield from (f"{name} looks for libraries by itself: {kind} {what}" for kind, what in _RUN_PATH.findall(told))
    yield from (
        f"{name} needs {library}, which is neither torch's nor the system's"
        for library in _NEEDED.findall(told)
        if not _FOUND_ANYWHERE.match(library)
    )


def faults_of_size(mib: float) -> Iterator[str]:
    """What is wrong with the size of a wheel."""
    if mib > MOST_MIB:
        yield f"the wheel must be no larger than {MOST_MIB} MiB, got {mib:.1f}"


def files_of_sdist(path: Path) -> set[str]:
    """Names of an sdist's files, without the folder that they are all in."""
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if not member.isdir()}


def files_of_wheel(path: Path) -> dict[str, bytes]:
    """A wheel's files."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def files_of_git(root: Path) -> set[str]:
    """Names of the files that git has."""
    told = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return {name for name in told.split("\0") if name}


def places_here() -> set[str]:
    """Folders of this machine that a build may leave traces of."""
    places = {ROOT, Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(sys.base_prefix)}
    return {f"{place}{os.sep}" for place in places if len(place.parts) > 1}


def main(arguments: list[str]) -> None:
    """Check both, and say how large they are."""
    parser = argparse.ArgumentParser(description="Look into an sdist and the wheel that was built from it.")
    parser.add_argument("sdist", type=Path)
    parser.add_argument("wheel", type=Path)
    paths = parser.parse_args(arguments)
    in_sdist, in_wheel = files_of_sdist(paths.sdist), files_of_wheel(paths.wheel)
    package = {name for name in in_sdist if name.startswith("shapley_cuda/")}
    mib = paths.wheel.stat().st_size / (1 << 20)
    faults = [
        *faults_of_sdist(in_sdist, files_of_git(ROOT)),
        *faults_of_wheel(in_wheel, package, places_here()),
        *faults_of_size(mib),
    ]
    if faults:
        raise SystemExit("\n".join([f"{paths.wheel.name} must not be given to users:", *faults]))
    unpacked = sum(map(len, in_wheel.values())) / (1 << 20)
    print(f"{paths.sdist.name}: {len(in_sdist)} files, {paths.sdist.stat().st_size / (1 << 20):.1f} MiB")
    print(
        f"{paths.wheel.name}: {len(in_wheel)} files, {mib:.1f} MiB of at most {MOST_MIB}, {unpacked:.1f} MiB installed"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
