"""Packages that only some of the functions need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["needed"]


def needed(package: str, caller: str, extra: str = "ecosystem") -> Any:
    """Import a package that is not among this one's own dependencies.

    Args:
        package: its name.
        caller: who needs it.
        extra: of this package's optional dependencies, those that it is among.

    Raises:
        ImportError: it is not installed; says who needs it and how to get it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs {package}, which cannot be imported ({error}); it comes with pip install '.[{extra}]'"
        ) from error
