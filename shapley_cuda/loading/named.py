"""Objects by the names of their modules."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["import_named"]


def import_named(name: str) -> Any:
    """Import what ``package.module:attribute`` names. Modules in the working directory are found first.

    Raises:
        ValueError: the name has not this form, or the module has no such attribute; near ones are suggested.
        ModuleNotFoundError: there is no such module.
        ImportError: importing the module raised something; it is the cause.

    Example:
        >>> import_named("shapley_cuda.networks:lenet5").__name__
        'lenet5'
    """
    module_name, colon, attribute = name.partition(":")
    if Path(module_name).suffix == ".py":
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise ValueError(f"must name a module, not a file: {dotted}:{attribute or 'NAME'}, got {name!r}")
    if not colon or not all(part.isidentifier() for part in f"{module_name}.{attribute}".split(".")):
        raise ValueError(f"must be of the form package.module:name, got {name!r}")
    module = _import(module_name)
    value = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, [known for known in dir(value) if not known.startswith("_")], n=2)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"module {module_name} has no {attribute!r}{hint}")
        value = getattr(value, part)
    return value


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # what the module imports is missing
            raise ImportError(f"importing {name} gave ModuleNotFoundError: {error}") from error
        raise ModuleNotFoundError(f"there is no module {name!r}, in {here} or installed", name=name) from None
    except Exception as error:  # whatever a user's module raises
        raise ImportError(f"importing {name} gave {type(error).__name__}: {error}") from error
