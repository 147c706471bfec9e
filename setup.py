"""Drives CMake for pip; CMakeLists.txt describes the build, pyproject.toml the package.

Environment:
    SHAPLEY_CUDA: 0 builds without CUDA kernels, 1 demands them. Default: 1 if nvcc is found or CUDACXX is set.
    SHAPLEY_CUDA_ARCHS: CUDA architectures, for example "80;90" (the default), separated by ; or , or spaces.
    CMAKE_ARGS: further arguments for CMake.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def cuda_arguments() -> list[str]:
    """Return what CMake is told about CUDA; nvcc decides, not whether this machine has a GPU."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    wanted = os.environ.get("SHAPLEY_CUDA", "").strip() or ("1" if nvcc else "0")
    if wanted not in ("0", "1"):
        raise SystemExit(f"SHAPLEY_CUDA must be 0 or 1, got {wanted!r}")
    if wanted == "0":
        return ["-DSHAPLEY_CUDA=OFF"]
    if not nvcc or not shutil.which(nvcc):
        raise SystemExit(
            "SHAPLEY_CUDA=1 needs nvcc: install the CUDA toolkit and put nvcc on PATH or set CUDACXX to it, "
            "or set SHAPLEY_CUDA=0 to build for the CPU alone"
        )
    archs = [arch for arch in re.split(r"[;,\s]+", os.environ.get("SHAPLEY_CUDA_ARCHS", "")) if arch]
    arguments = ["-DSHAPLEY_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={shutil.which(nvcc)}"]
    return arguments + ([f"-DSHAPLEY_CUDA_ARCHS={';'.join(archs)}"] if archs else [])


class CMakeBuild(build_ext):
    """Builds shapley_cuda._C with CMake and Ninja."""

    def build_extension(self, ext: Extension) -> None:
        """Build in one place, so that only what changed is compiled.

        The configuration is made afresh each time: an isolated build leaves paths of a deleted environment in it.
        """
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        # Tools of this environment come first also when pip was called by path.
        environment = {**os.environ, "PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", "")}
        configure = ["cmake", "--fresh", "-G", "Ninja", "-S", str(ROOT), "-B", str(build)]
        configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
        configure += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}"]
        configure += [f"-DSHAPLEY_VERSION={self.distribution.get_version()}", *cuda_arguments()]
        subprocess.run(configure + shlex.split(os.environ.get("CMAKE_ARGS", "")), check=True, env=environment)
        subprocess.run(["cmake", "--build", str(build)], check=True, env=environment)


setup(ext_modules=[Extension("shapley_cuda._C", [])], cmdclass={"build_ext": CMakeBuild})
