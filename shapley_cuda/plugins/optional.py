"""Packages that only some of the plugins need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["needed"]


def needed(package: str, caller: str) -> Any:
    """Import a package that is not among this one's own dependencies.

    Raises:
        ImportError: it is not installed; says who needs it and how to get it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{caller} needs {package}, which cannot be imported ({error}); "
            f"it comes with pip install 'shapley_cuda[ecosystem]'"
        ) from error
