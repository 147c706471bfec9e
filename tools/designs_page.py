"""Put what `python -m benchmarks.designs --save` measured into docs/walks.md.

The text around the table is written by hand, so read it again when figures change.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from marks import filled

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.designs import Spread, table_of  # noqa: E402

PAGE = ROOT / "docs" / "walks.md"
RESULTS = ROOT / "benchmarks" / "results" / "designs.json"


def markdown(spreads: list[Spread]) -> str:
    """The comparison as a table, with how much of it each layer's figures rest on."""
    headings, lines = table_of(spreads)
    layers = {s.layer: f"{s.layer} {s.players} channels, {s.samples} samples" for s in spreads}
    repetitions = sorted({s.repetitions for s in spreads})
    rows = [headings, ["---"] * len(headings), *lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    times = " or ".join(map(str, repetitions))
    return f"{table}\n\n{'; '.join(layers.values())}; {times} repetitions each."


def main() -> None:
    """Take over the saved results."""
    spreads = [Spread(**record) for record in json.loads(RESULTS.read_text(encoding="utf-8"))["spreads"]]
    page = filled(PAGE.read_text(encoding="utf-8"), "designs", "end of designs", f"{markdown(spreads)}\n")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
