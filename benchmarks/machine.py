"""The machine under the measurements: what it is, how fast it can be at best, and how much memory a call takes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shapley_cuda import build_info
from shapley_cuda.memory import PeakMemory

Call = Callable[[], Any]

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_ROOT = Path(__file__).resolve().parent.parent


def describe(device: torch.device) -> dict[str, Any]:
    """Say where and with what the numbers are measured."""
    info = build_info()
    header: dict[str, Any] = {
        "device": device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "cpu_isa": info.cpu_isa,
        "shapley_cuda": info.version,
        "commit": commit(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "load_at_start": round(os.getloadavg()[0], 2),
        "memory_by": memory_method(device),
    }
    if device.type == "cuda":
        header |= {"driver": driver(), "kernels_for": info.cuda_archs, "kernels_by_cuda": info.cuda_version}
    return header


def cpu_name() -> str:
    """Name the processor."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"


def device_name(device: torch.device) -> str:
    """Name the device that runs the calls."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def commit() -> str:
    """Name the commit that is measured; `-dirty` where files differ from it, `unknown` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def driver() -> str:
    """Name the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(call: Call, device: torch.device, tries: int) -> float:
    """Shortest wall-clock time of several calls, after one that is not counted."""
    call()
    times = []
    for _ in range(tries):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def ceilings(device: torch.device, quick: bool) -> dict[str, float]:
    """Measure what no kernel can beat: the best of several large copies and float32 matrix products.

    The copy counts bytes read plus bytes written. The product is random data, on all threads that are set.
    """
    gpu = device.type == "cuda"
    n_bytes, side = ((1 << 31, 8192) if gpu else (1 << 28, 2048)) if not quick else (1 << 25, 512)
    generator = torch.Generator(device).manual_seed(0)
    source = torch.randn(n_bytes // 4, device=device, generator=generator)
    target = torch.empty_like(source)
    copy = best_seconds(lambda: target.copy_(source), device, 10)
    a, b = torch.randn(2, side, side, device=device, generator=generator)
    product = best_seconds(lambda: a @ b, device, 10)
    return {"copy_gb_per_s": 2 * n_bytes / copy / 1e9, "matmul_gflop_per_s": 2 * side**3 / product / 1e9}


def memory_method(device: torch.device) -> str:
    """Say how `peak_memory` measures on this device."""
    if device.type == "cuda":
        return "torch.cuda.max_memory_allocated"
    return "VmHWM" if _can_reset_high_water() else "bytes of the tensors made"


def peak_memory(call: Call, device: torch.device) -> float:
    """MiB that a call takes at its worst moment beyond what was there before it, its result included.

    A copy of the process's own high-water mark where the kernel lets it be reset: scratch memory of any library counts,
    in whole pages. Elsewhere the bytes of the tensors that the call makes, where scratch inside an op goes unseen.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if not _can_reset_high_water():
        with PeakMemory() as memory:
            call()
        return memory.peak / 2**20
    # Freed memory that the C library keeps would be used again unseen.
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5")
    before = _status_kib("VmRSS")
    call()
    return max(0, _status_kib("VmHWM") - before) / 1024


def _can_reset_high_water() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
        return hasattr(ctypes.CDLL(None), "malloc_trim") and _status_kib("VmHWM") > 0
    except (OSError, TypeError):
        return False


def _status_kib(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
