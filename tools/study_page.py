"""Put what `make study` found into docs: its figures and results beside the page, its tables into the page.

    make study
    python tools/study_page.py runs/study

The page marks where each study's tables stand; its text is written by hand, so read it again when figures change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from marks import filled

from shapley_cuda.study import STUDIES, StudyResult, markdown, write_study

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main(arguments: list[str]) -> None:
    """Take over the results in a folder."""
    parser = argparse.ArgumentParser(description="Put what `make study` found into docs/study.md.")
    parser.add_argument("results", type=Path, help="the folder that `make study` wrote to")
    results = parser.parse_args(arguments).results
    page = DOCS / "study.md"
    text = page.read_text(encoding="utf-8")
    for name in STUDIES:
        result = StudyResult.load(results / f"{name}.json")
        text = filled(text, f"tables of {name}", f"end of {name}", markdown(result))
        for path in write_study(result, DOCS / "figures"):
            if path.suffix == ".md":
                path.unlink()
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
