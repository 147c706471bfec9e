"""Where ``prune`` puts things in its folder, and ``report`` finds them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

__all__ = ["PLAN", "REPORT", "RESULTS", "VALUES", "round_folder", "values_file"]

PLAN, RESULTS, REPORT, VALUES = "plan.json", "results.json", "report.html", "values"


def round_folder(folder: Path, number: int) -> Path:
    """Folder of what a round did, the first being 1."""
    return folder / f"round-{number}"


def values_file(group: str) -> str:
    """Name of the file of a group's values; any group has one."""
    return f"values-{quote(group, safe='')}.json"
