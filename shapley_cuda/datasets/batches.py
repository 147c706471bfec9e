"""The python batches of CIFAR: pickles, read without executing them.

A pickle is a program: unpickling calls whatever it names. These files need no calls, though. They hold one dict of
lists, strings and a byte array, which NumPy writes as two notes, "make an array" and "fill it thus". So the opcodes are
walked here one by one. Notes stay notes, the one array is built from its bytes, and a file that names anything else is
refused.
"""

from __future__ import annotations

import math
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_ENCODE = "_codecs encode"  # how Python 3 writes bytes for Python 2
_GLOBALS = {*_ARRAY, "numpy ndarray", "numpy dtype", _ENCODE}

_BYTES = {"SHORT_BINSTRING", "BINSTRING", "STRING"}  # Python 2's str
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Global:
    """What the file names."""

    name: str


@dataclass
class _Note:
    """What the file wants called, and with which state filled. Neither happens."""

    name: str
    arguments: Any
    state: Any = None


def read_python_batch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a python batch of CIFAR without executing it.

    Args:
        path: a file like ``data_batch_1`` or ``train``, as distributed (Python 2, protocol 2) or written again by
            Python 3 with protocol 2 or 3.

    Returns:
        The file's dict, keys as str: lists, bytes, numbers, and arrays as uint8, owned by the caller.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged, or holds anything but such a dict. Nothing in it has been executed.
    """
    raw = Path(path).read_bytes()
    try:
        found = _walk(raw)
        if not isinstance(found, dict):
            raise TypeError(f"{type(found).__name__} instead of a dict")
        return {key: _plain(value) for key, value in found.items()}
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"read_python_batch: {path} must be a pickled dict of lists, strings and byte arrays, which is read and "
            f"never executed, got: {error}"
        ) from error


def _walk(raw: bytes) -> Any:
    """Follow a pickle's opcodes up to what it leaves on its stack."""
    stack: list[Any] = []
    below: list[list[Any]] = []  # the stacks under each open mark
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, position in pickletools.genops(raw):
        name = opcode.name
        if name in _BYTES:
            stack.append(argument.encode("latin-1"))
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                _only(list, stack[-1]).extend(items)
            else:
                _only(dict, stack[-1]).update(zip(map(_text, items[::2]), items[1::2], strict=True))
        elif name == "APPEND":
            item = stack.pop()
            _only(list, stack[-1]).append(item)
        elif name == "SETITEM":
            key, value = stack[-2:]
            del stack[-2:]
            _only(dict, stack[-1])[_text(key)] = value
        elif name == "GLOBAL":
            if argument not in _GLOBALS:
                raise ValueError(f"it names {argument.replace(' ', '.')!r}")
            stack.append(_Global(argument))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_noted(_only(_Global, stack.pop()).name, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _only(_Note, stack[-1]).state = state
        elif name == "STOP":
            return stack.pop()
        elif name != "PROTO":
            raise ValueError(f"opcode {name} at byte {position}")
    raise ValueError("it has no end")


def _only(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__.strip('_').lower()} where a {kind.__name__.strip('_').lower()} was due")
    return value


def _noted(name: str, arguments: Any) -> Any:
    if name == _ENCODE:
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes encoded in {encoding!r}")
        return text.encode("latin-1")
    return _Note(name, arguments)


def _text(key: Any) -> str:
    """Turn a key into text. Nothing else is hashed: hashing tuples within tuples within tuples ends the process."""
    return key.decode("ascii") if isinstance(key, bytes) else str(_only(str, key))


def _plain(value: Any) -> Any:
    """Turn a note into the array that it describes; refuse notes in any other place."""
    if isinstance(value, _Note):
        return _array(value)
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(part, (bytes, str, int, type(None))):
            raise TypeError(f"a {type(part).__name__.strip('_').lower()} among its values")
    return value


def _array(note: _Note) -> npt.NDArray[np.uint8]:
    if note.name not in _ARRAY:
        raise ValueError(f"a value made by {note.name.replace(' ', '.')!r}")
    _, shape, dtype, fortran_order, raw = note.state
    if not isinstance(dtype, _Note) or dtype.name != "numpy dtype" or dtype.arguments[0] not in (b"u1", "u1"):
        raise ValueError(f"an array of {dtype!r}, not of bytes")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or math.prod(shape) != len(_only(bytes, raw)):
        raise ValueError(f"{len(raw)} bytes for an array of shape {shape!r}")
    # frombuffer gives a read-only view of the file's bytes.
    array: npt.NDArray[np.uint8] = np.array(np.frombuffer(raw, dtype=np.uint8))
    return array.reshape(tuple(shape), order="F" if fortran_order else "C")
