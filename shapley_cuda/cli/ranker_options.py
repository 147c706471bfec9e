"""Rankers made from options of the command line."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from ..rankers import RANKERS, Ranker
from .errors import blame

__all__ = ["is_done_in_chunks", "make_ranker"]

_FLAGS = {
    "tolerance": "--tolerance",
    "settle": "--settle",
    "budget": "--budget",
    "max_seconds": "--seconds",
    "seed": "--seed",
}
"""Options of rankers that the command has as options of its own."""
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def make_ranker(method: str, options: Sequence[str], **usual: Any) -> Ranker:
    """Make a ranker, blaming the option that is wrong.

    Args:
        method: its name.
        options: further options of it, each as ``"key=value"``.
        usual: options that the command has as options of its own, as values or, where the type is to be told, as text;
            None is not given. A seed is passed over where the ranker draws nothing.
    """
    if method not in RANKERS:
        raise typer.BadParameter(
            f"must be one of {', '.join(RANKERS)}, got {method!r}{_near(method, RANKERS)}", param_hint="--method"
        )
    ranker = RANKERS[method]
    known = [option.name for option in fields(ranker)]
    given = {name: value for name, value in usual.items() if value is not None}
    if "seed" not in known:
        given.pop("seed", None)
    for name, value in list(given.items()):
        if name not in known:
            raise typer.BadParameter(f"{method} ranking has no {name}{_has(known)}", param_hint=_FLAGS[name])
        if isinstance(value, str):
            with blame(_FLAGS[name]):
                given |= _parsed(ranker, known, [f"{name}={value}"])
    with blame("-o"):
        further = _parsed(ranker, known, options)
        for name in further:
            if name in given and name != "seed":
                raise ValueError(f"{name} is given twice, also as {_FLAGS[name]}")
    flags = [_FLAGS[name] for name in given if name not in {"seed", *further}] + [f"-o {name}" for name in further]
    with blame(", ".join(flags) or "--method"):
        return ranker(**given | further)


def is_done_in_chunks(ranker: Ranker) -> bool:
    """Whether a ranker's work can be saved, and shared out to processes."""
    return type(ranker).score_in_chunks is not Ranker.score_in_chunks


def _parsed(ranker: type[Ranker], known: list[str], options: Sequence[str]) -> dict[str, Any]:
    kinds, values = get_type_hints(ranker), dict[str, Any]()
    for option in options:
        name, equals, text = option.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"must be key=value, got {option!r}")
        if name not in known:
            raise ValueError(f"{ranker.name} ranking has no {name!r}{_near(name, known)}{_has(known)}")
        try:
            values[name] = _value(text.strip(), kinds[name])
        except ValueError:
            raise ValueError(f"{name} must be {_words(kinds[name])}, got {text!r}") from None
    return values


def _value(text: str, kind: Any) -> Any:
    """Read a text as a value of a type; the first that fits of several."""
    if get_origin(kind) in (Union, types.UnionType):
        for member in sorted(get_args(kind), key=lambda member: member is not int):  # 24 is a number, 0.5 a share
            try:
                return _value(text, member)
            except ValueError:
                continue
    elif get_origin(kind) is Literal:
        for choice in get_args(kind):
            if text == str(choice):
                return choice
    elif kind is types.NoneType:
        if text.lower() == "none":
            return None
    elif kind is bool:
        if text.lower() in _YES + _NO:
            return text.lower() in _YES
    elif kind is int:
        number = float(text)  # 2e6 is a whole number
        return int(text) if "e" not in text.lower() or not number.is_integer() else int(number)
    elif kind in (float, str):
        return kind(text)
    raise ValueError(text)


def _words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_words(member) for member in get_args(kind) if member is not types.NoneType)
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
    return words.get(kind, "given in Python")


def _has(known: Sequence[str]) -> str:
    return f"; its options are {', '.join(known)}" if known else "; it has no options"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
