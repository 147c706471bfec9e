"""Files: written whole or not at all, and read without trusting them."""

from __future__ import annotations

import json
import math
import os
import reprlib
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import Tensor

__all__ = ["is_of_kind", "read_file", "read_record", "write_whole"]

_MOST_LEVELS = 32  # of lists and objects in each other
_MOST = 1 << 63

Record = TypeVar("Record")


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, which nobody can guess, then move it into place in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_urlsafe(6)}")
    file = open(temporary, "xb")  # noqa: SIM115  x: it is not there yet, not even as a link
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_file(path: str | Path, parse: Callable[[str], Record]) -> Record:
    """Read a file of text with a function that raises ValueError for what it cannot read; the error names the file."""
    try:
        return parse(Path(path).read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_record(text: str, what: str, record_format: str, names: Collection[str]) -> dict[str, Any]:
    """Read a JSON object of a format of ours.

    Args:
        text: the JSON.
        what: names it in errors.
        record_format: the value of its field "format", which is left out of what is returned.
        names: of its other fields. A mapping, as ``typing.get_type_hints`` gives it, also says of which kinds their
            values are, see :func:`is_of_kind`; what else they have to be is the caller's to check.

    Raises:
        ValueError: the text is not such a record, is nested deeper than 32 levels or has integers of more than 64 bits.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON, got: {error}") from error
    if not _is_bounded(record, _MOST_LEVELS):
        raise ValueError(f"{what} must be JSON of at most {_MOST_LEVELS} levels and integers of 64 bits, got more")
    expected = f"{what} must be a JSON object of format {record_format} with fields {sorted(names)}"
    if not isinstance(record, dict):
        raise ValueError(f"{expected}, got {type(record).__name__}")
    found = record.pop("format", None)
    if found != record_format:
        raise ValueError(f"{expected}, got format {reprlib.repr(found)}")
    if set(record) != set(names):
        raise ValueError(f"{expected}, got fields {sorted(record)}")
    for name, kind in names.items() if isinstance(names, Mapping) else ():
        if not is_of_kind(record[name], kind):
            kind_name = getattr(kind, "__name__", str(kind))
            raise ValueError(f"{name} of {what} must be of kind {kind_name}, got {reprlib.repr(record[name])}")
    return record


def is_of_kind(value: Any, kind: Any) -> bool:
    """Tell whether a value read from JSON is what a type hint says.

    Lists stand for tuples, objects with its fields for a dataclass, finite numbers for floats. Tensors are not looked
    at: how they are written differs.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind in (Any, Tensor):
        return True
    if origin in (Union, UnionType):
        return any(is_of_kind(value, part) for part in parts)
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return isinstance(value, dict) and set(value) == set(kinds) and all(
            is_of_kind(value[name], kinds[name]) for name in kinds
        )  # fmt: skip
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(is_of_kind(item, parts[1]) for item in value.values())
    if origin is tuple and ... not in parts:
        return isinstance(value, list) and len(value) == len(parts) and all(map(is_of_kind, value, parts))
    if origin in (list, tuple):
        return isinstance(value, list) and all(is_of_kind(item, parts[0]) for item in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is kind


def _is_bounded(value: Any, levels: int) -> bool:
    """Whether a value is safe to compare, print and turn into tensors."""
    if isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_is_bounded(item, levels - 1) for item in items)
    return type(value) is not int or -_MOST <= value < _MOST
