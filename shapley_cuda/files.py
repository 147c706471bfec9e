"""Files: written whole or not at all, and read without trusting them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

__all__ = ["read_record", "write_whole"]


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then move it into place in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_record(text: str, what: str, record_format: str, names: Collection[str]) -> dict[str, Any]:
    """Read a JSON object of a format of ours; the values of its fields are the caller's to check.

    Raises:
        ValueError: the text is not JSON, of another format, or has not exactly these fields; names ``what`` it is.
    """
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} must be JSON, got: {error}") from error
    expected = f"{what} must be a JSON object of format {record_format} with fields {sorted(names)}"
    if not isinstance(record, dict):
        raise ValueError(f"{expected}, got {type(record).__name__}")
    found = record.pop("format", None)
    if found != record_format:
        raise ValueError(f"{expected}, got format {found!r}")
    if set(record) != set(names):
        raise ValueError(f"{expected}, got fields {sorted(record)}")
    return record
