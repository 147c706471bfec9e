"""A study's files."""

from __future__ import annotations

from pathlib import Path

from ..files import write_whole
from .plots import write_figures
from .results import StudyResult
from .tables import markdown

__all__ = ["write_study"]


def write_study(result: StudyResult, folder: str | Path) -> list[Path]:
    """Write a study's results as JSON, its tables as markdown and its figures as PNG, each whole or not at all.

    Args:
        result: the study.
        folder: where to write; files are called by the study's name.

    Returns:
        The files' paths.

    Example:
        >>> sc.write_study(sc.run_study(sc.STUDIES["lenet5-small"]), "runs/study")
    """
    record, tables = (Path(folder) / f"{result.config.name}{ending}" for ending in (".json", ".md"))
    result.save(record)
    write_whole(tables, markdown(result).encode())
    return [record, tables, *write_figures(result, folder)]
