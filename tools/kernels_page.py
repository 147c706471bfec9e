"""Put what `make bench` measured into docs/kernels.md: a table for each op, between its marks.

    python -m benchmarks --save
    python tools/kernels_page.py benchmarks/results/amd-epyc-2-cores.json

The text around the tables is written by hand, so read it again when figures change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from marks import filled

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
_HEADER = """\
| case | pure PyTorch | its time | ours | speed-up | share of the ceiling |
| --- | --- | --- | --- | --- | --- |"""


def table(rows: list[dict[str, Any]]) -> str:
    """An op's measurements, one baseline a line; lines that lose are there like any other."""
    lines = [_HEADER]
    for row in rows:
        kind = "" if row["dtype"].startswith("float32") else f" {row['dtype']}"
        ceiling = f"{row['percent_of_peak']:.0f} %, {row['bound_by']}" if row["bound_by"] else ""
        times = f"{row['baseline_ms'][1]:.3g} ms | {row['ours_ms'][1]:.3g} ms | {row['speed_up'][1]:.3g} \u00d7"
        lines.append(f"| {row['shape']}{kind} | {row['baseline']} | {times} | {ceiling} |")
    return "\n".join(lines)


def with_tables(page: str, rows: list[dict[str, Any]]) -> str:
    """Fill in the tables of all marks.

    Raises:
        ValueError: an op was measured that the page has no marks for, or the other way round.
    """
    measured = {row["op"] for row in rows}
    marked = set(re.findall(r"<!-- figures of (\w+) -->", page))
    if measured != marked:
        raise ValueError(f"page must mark the figures of {sorted(measured)}, got {sorted(marked)}")
    for op in measured:
        of_op = table([row for row in rows if row["op"] == op])
        page = filled(page, f"figures of {op}", f"end of {op}", f"{of_op}\n")
    return page


def main(arguments: list[str]) -> None:
    """Take over a file of results."""
    parser = argparse.ArgumentParser(description="Put what `make bench` measured into docs/kernels.md.")
    parser.add_argument("results", type=Path, help="a file that `python -m benchmarks --save` wrote")
    rows = json.loads(parser.parse_args(arguments).results.read_text(encoding="utf-8"))["rows"]
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
