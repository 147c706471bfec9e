"""Loads the native module, which registers the ops, and tells how it was built and what it runs on."""

from __future__ import annotations

from dataclasses import dataclass

import torch  # before _C: it brings LibTorch into the process

try:
    from shapley_cuda import _C
except ImportError as error:
    raise ImportError(
        f"shapley_cuda's native module cannot be loaded ({error}). It is built by installing the package: run "
        "`pip install .` in the source tree, with this Python and with torch 2.11 or later. To work in the tree "
        "itself, run `pip install --no-build-isolation -e .`."
    ) from error

__version__: str = _C.version


@dataclass(frozen=True)
class BuildInfo:
    """How the native module was built, and what it runs on.

    Attributes:
        version: Version of the package.
        cuda: Whether CUDA kernels were built.
        cuda_version: CUDA toolkit that built them; empty without CUDA kernels.
        cuda_archs: Architectures they were built for, such as ("80", "90").
        torch_built: torch whose headers were used.
        torch_running: torch in this process.
        cpu_isa: Instruction set of the CPU kernels here: "baseline", "avx2" or "avx512".
        threads: Threads that the CPU kernels use at most (torch.get_num_threads()).
        devices: Names of the devices that the ops run on, the CPU first.
    """

    version: str
    cuda: bool
    cuda_version: str
    cuda_archs: tuple[str, ...]
    torch_built: str
    torch_running: str
    cpu_isa: str
    threads: int
    devices: tuple[str, ...]


def build_info() -> BuildInfo:
    """Tell how the package was built and what it runs on, for logs and bug reports.

    Returns:
        A BuildInfo. GPUs are listed only if CUDA kernels were built and torch can use them.

    Example:
        >>> import shapley_cuda
        >>> shapley_cuda.build_info().devices[0]
        'cpu'
    """
    cuda = bool(_C.cuda_version)
    gpus = torch.cuda.device_count() if cuda and torch.cuda.is_available() else 0
    return BuildInfo(
        version=__version__,
        cuda=cuda,
        cuda_version=_C.cuda_version,
        cuda_archs=tuple(_C.cuda_archs.split()),
        torch_built=_C.torch_version,
        torch_running=str(torch.__version__),
        cpu_isa=_C.cpu_isa(),
        threads=torch.get_num_threads(),
        devices=("cpu", *(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(gpus))),
    )
