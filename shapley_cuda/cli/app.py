"""The application that the commands belong to."""

from __future__ import annotations

from typing import Annotated

import typer

from ..build import __version__
from .errors import CommandGroup

__all__ = ["app"]

app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shapley-cuda {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Rank the channels of a network by their Shapley value, and prune the least valuable.

    Begin with demo. For a network of your own: groups, rank, prune.
    """
