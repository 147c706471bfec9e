"""Runs of the command line in this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from shapley_cuda.cli import app

OWN = ("--model", "own_network:Net", "--data", "own_network:data")


class Run:
    """What a run printed, and how it ended. Lines are so wide that none is broken."""

    def __init__(self, *arguments: str | Path):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "2000"})
        self.code: int = result.exit_code
        self.printed: str = result.output
        self.error: Any = result.exception
        # Without the boxes around errors and tables.
        self.words = " ".join(re.sub(r"[│┃╭╮╰╯─━]", " ", result.output).split())


def succeed(*arguments: str | Path) -> Run:
    run = Run(*arguments)
    assert run.code == 0, run.printed
    return run


def refuse(text: str, *arguments: str | Path, code: int = 2) -> None:
    """Run a command that must end with a message, and without a traceback."""
    run = Run(*arguments)
    assert run.code == code, (run.printed, run.error)
    assert text in run.words
    assert "Traceback" not in run.printed
