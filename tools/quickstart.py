"""Run the README's quickstart with the installed package, whose metadata hold the README.

    cd an_empty_folder && python /path/to/tools/quickstart.py

Refuses to run with a package that is not installed, as the source tree's is where Python finds it first.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import shapley_cuda


def blocks(readme: str, heading: str) -> list[str]:
    """The Python blocks below a heading of the second level."""
    parts = re.split(r"^## (.+)$", readme, flags=re.MULTILINE)
    below = dict(zip(parts[1::2], parts[2::2], strict=True))
    return re.findall(r"^```python\n(.*?)^```$", below[heading], flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    """Run the blocks in order."""
    where = Path(shapley_cuda.__file__).resolve()
    if not where.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"shapley_cuda must be installed in {sys.prefix}, got that in {where.parent}")
    found = blocks(metadata("shapley_cuda").get_payload(), "Quickstart")
    if not found:
        raise SystemExit("the README must have Python blocks below Quickstart, got none")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, block in enumerate(found, start=1):
        exec(compile(block, f"README.md, quickstart, block {number}", "exec"), namespace)
    print(f"quickstart: {len(found)} blocks ran with {where.parent}")


if __name__ == "__main__":
    main()
