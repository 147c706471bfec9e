"""What was measured, as tables on the terminal and as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .harness import Row

FORMAT = "shapley_cuda.benchmarks/1"
RESULTS = Path(__file__).resolve().parent / "results"


def _ms(times: tuple[float, float, float] | None) -> str:
    return "" if times is None else f"{times[1]:.4g}"


def _range(times: tuple[float, float, float] | None) -> str:
    return "" if times is None else f"{times[0]:.4g} to {times[2]:.4g}"


def _number(value: float | None, form: str = ".3g") -> str:
    return "" if value is None else format(value, form)


def _peak(row: Row) -> str:
    return "" if row.percent_of_peak is None else f"{row.percent_of_peak:.3g} ({row.bound_by})"


def _memory(row: Row) -> str:
    if row.ours_peak_mib is None or row.baseline_peak_mib is None:
        return ""
    return f"{row.ours_peak_mib:.1f} / {row.baseline_peak_mib:.1f}"


def _speed_up(row: Row) -> str:
    if row.speed_up is None:
        return "DISAGREES"
    return f"{row.speed_up[1]:.3g}x"


_COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("op", lambda row: row.op),
    ("shape", lambda row: row.shape),
    ("dtype", lambda row: row.dtype),
    ("baseline", lambda row: row.baseline),
    ("baseline ms", lambda row: _ms(row.baseline_ms)),
    ("ours ms", lambda row: _ms(row.ours_ms)),
    ("spread", lambda row: _range(row.ours_ms)),
    ("speed-up", _speed_up),
    ("rows/s", lambda row: _number(row.rows_per_s)),
    ("GB/s", lambda row: _number(row.gb_per_s)),
    ("% of peak", _peak),
    ("max error", lambda row: f"{row.max_error:.1e}"),
    ("peak MiB", _memory),
]


@dataclass
class Record:
    """All that a run finds out."""

    header: dict[str, Any]
    ceilings: dict[str, float]
    rows: list[Row] = field(default_factory=list)
    estimators: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def print_header(record: Record) -> None:
    """Print where the numbers are measured and what the machine can do at best."""
    facts = {**record.header, **{name: f"{value:.4g}" for name, value in record.ceilings.items()}}
    print("\n".join(f"{name:<20} {value}" for name, value in facts.items() if value is not None), flush=True)


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """Print a section's rows, those that lose included. Columns that say nothing are left out."""
    print_table(title, [name for name, _ in _COLUMNS], [[show(row) for _, show in _COLUMNS] for row in rows])


def print_table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, its columns aligned for the terminal."""
    if not cells:
        return
    used = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    lines = [[line[i] for i in used] for line in (columns, *cells)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    print(f"\n**{title}**\n")
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Say on the terminal what is being measured."""
    print(text, file=sys.stderr, flush=True)


def write_json(path: Path | None, record: Record) -> None:
    """Write everything that was measured, where that is wanted."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(record)}, indent=1) + "\n")


def default_path(header: dict[str, Any]) -> Path:
    """Where the results of this device are kept."""
    return RESULTS / (re.sub(r"[^a-z0-9]+", "-", str(header["device"]).lower()).strip("-") + ".json")
