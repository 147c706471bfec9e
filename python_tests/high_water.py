"""The memory that a call takes of the process at its worst moment, on Linux."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _can_reset_high_water() -> bool:
    try:
        _CLEAR_REFS.write_text("5")
        return hasattr(ctypes.CDLL(None), "malloc_trim") and _status_bytes("VmHWM") > 0
    except (OSError, TypeError):
        return False


needs_high_water = pytest.mark.skipif(
    not _can_reset_high_water(), reason="the process's high-water mark of memory cannot be reset here (Linux only)"
)


def extra_bytes(call: Callable[[], Tensor]) -> int:
    """Bytes that a call takes at its worst moment, its output not counted."""
    call()  # what is loaded on first use
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory that the C library keeps would be used again unseen
    _CLEAR_REFS.write_text("5")
    before = _status_bytes("VmRSS")
    output = call()
    return _status_bytes("VmHWM") - before - output.untyped_storage().nbytes()
