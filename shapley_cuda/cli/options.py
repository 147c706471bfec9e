"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from ..build import build_info
from .errors import set_debug

__all__ = ["Debug", "Device", "check_device"]

Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=set_debug, is_eager=True)
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")]


def check_device(device: str) -> None:
    """Refuse a device that the ops do not run on here."""
    usable = [name.split()[0] for name in build_info().devices]
    if device not in usable and not (device == "cuda" and "cuda:0" in usable):
        raise typer.BadParameter(f"must be one of {', '.join(usable)}, got {device!r}", param_hint="--device")
