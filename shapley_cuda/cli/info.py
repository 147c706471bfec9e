"""``shapley-cuda info``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..build import build_info
from .app import app


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell how this package was built and which devices it can use."""
    record = asdict(build_info())
    if as_json:
        typer.echo(json.dumps(record, indent=1))
        return
    for name, value in record.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value
        typer.echo(f"{name.replace('_', ' '):<22} {shown}")
