"""What users do wrong is told in one clear message, with the option that it is about."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import typer
from typer.core import TyperGroup

from ..export import ExportError
from ..masking import PathError
from ..rankers import ProcessError
from ..surgery import PruningError

__all__ = ["CommandGroup", "blame", "set_debug", "typed_command"]

# What the package's functions raise for bad arguments, data and files. All else is a defect and keeps its traceback.
_USER_ERRORS = (
    ValueError, TypeError, ImportError, OSError, FloatingPointError, PathError, PruningError,
    ExportError, ProcessError, torch.OutOfMemoryError,
)  # fmt: skip
_DEBUG = "shapley_cuda.debug"
_COMMAND = "shapley_cuda.command"


@contextmanager
def blame(option: str) -> Iterator[None]:
    """Tell that an error in here is about an option."""
    try:
        yield
    except _USER_ERRORS as error:
        raise typer.BadParameter(_message(error), param_hint=option) from error


class CommandGroup(TyperGroup):
    """Commands whose errors are messages; with ``--debug``, the traceback comes first."""

    def make_context(self, info_name: str | None, args: list[str], **extra: Any) -> Any:  # type: ignore[override]
        """Take note of the words that were typed, for what records them."""
        typed = ["shapley-cuda", *args]  # args is emptied
        ctx = super().make_context(info_name, args, **extra)
        ctx.meta[_COMMAND] = typed
        return ctx

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if error.__cause__ is not None:
                _show_traceback(ctx, error.__cause__)
            raise
        except _USER_ERRORS as error:
            _show_traceback(ctx, error)
            typer.secho(f"Error: {_message(error)}", err=True, fg="red")
            raise typer.Exit(1) from None


def set_debug(ctx: typer.Context, wanted: bool) -> None:
    """Take note of ``--debug``."""
    ctx.find_root().meta[_DEBUG] = wanted


def typed_command(ctx: typer.Context) -> list[str]:
    """The words of the command, as they were typed."""
    return list(ctx.find_root().meta[_COMMAND])


def _show_traceback(ctx: typer.Context, error: BaseException) -> None:
    if ctx.meta.get(_DEBUG):
        typer.echo("".join(traceback.format_exception(error)), err=True)


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__
