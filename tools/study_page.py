"""Put what `make study` found into docs: its figures and results beside the page, its tables into the page.

    make study
    python tools/study_page.py runs/study

The page marks where each study's tables stand; its text is written by hand, so read it again when figures change.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from shapley_cuda.study import STUDIES, StudyResult, markdown, write_study

DOCS = Path(__file__).resolve().parents[1] / "docs"


def with_tables(page: str, name: str, tables: str) -> str:
    """Put a study's tables between its marks."""
    begin, end = f"<!-- tables of {name} -->\n", f"<!-- end of {name} -->\n"
    filled, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{tables}\n{end}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"page must mark the tables of {name} once, got {count} times")
    return filled


def main(arguments: list[str]) -> None:
    """Take over the results in a folder."""
    parser = argparse.ArgumentParser(description="Put what `make study` found into docs/study.md.")
    parser.add_argument("results", type=Path, help="the folder that `make study` wrote to")
    results = parser.parse_args(arguments).results
    page = DOCS / "study.md"
    text = page.read_text(encoding="utf-8")
    for name in STUDIES:
        result = StudyResult.load(results / f"{name}.json")
        text = with_tables(text, name, markdown(result))
        for path in write_study(result, DOCS / "figures"):
            if path.suffix == ".md":
                path.unlink()
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
