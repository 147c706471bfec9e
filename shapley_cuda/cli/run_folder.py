"""Where ``prune`` puts things in its folder, and ``report`` finds them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from ..files import read_file
from ..plans import PruningPlan

__all__ = ["PLAN", "REPORT", "RESULTS", "VALUES", "read_plan", "round_folder", "values_file"]

PLAN, RESULTS, REPORT, VALUES = "plan.json", "results.json", "report.html", "values"


def read_plan(folder: Path) -> PruningPlan:
    """The plan that ``prune`` wrote into a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged; the message names the file.
    """
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"{folder} must be a folder that prune wrote, got none with a {PLAN}")
    return read_file(folder / PLAN, PruningPlan.from_json)


def round_folder(folder: Path, number: int) -> Path:
    """Folder of what a round did, the first being 1."""
    return folder / f"round-{number}"


def values_file(group: str) -> str:
    """Name of the file of a group's values; any group has one."""
    return f"values-{quote(group, safe='')}.json"
