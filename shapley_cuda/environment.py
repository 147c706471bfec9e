"""What measurements were made on, and with."""

from __future__ import annotations

import platform
import re
from datetime import datetime, timezone
from pathlib import Path

from .build import build_info

__all__ = ["current_time", "describe_environment"]


def describe_environment(device: str) -> dict[str, str]:
    """Device, threads and versions that times, and the last bits of numbers, depend on.

    Args:
        device: what ran the network, e.g. ``"cpu"`` or ``"cuda:0"``.
    """
    info = build_info()
    return {
        "device": next((name for name in info.devices if name.startswith(device)), device),
        "cpu": _cpu_name(),
        "cpu_isa": info.cpu_isa,
        "threads": str(info.threads),
        "shapley_cuda": info.version,
        "torch": info.torch_running,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def current_time() -> str:
    """The time now, as ISO 8601 with its zone."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
