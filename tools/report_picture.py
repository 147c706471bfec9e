"""Take the picture of a report that the documentation shows: a wide light page and a narrow dark one, side by side.

python tools/report_picture.py runs/pruned/report.html docs/figures/report.png
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "python_tests"))
import headless

_HEIGHT, _GAP, _COLOURS = 1825, 24, 80
_VIEWS = ((1000, "light", "body"), (390, "dark", "#values"))  # width, scheme, what is on top


def main() -> None:
    """Take the pictures, put them side by side, and save them in few colours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    views = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, headless.browser(Path(folder)) as browser:
        for width, scheme, top in _VIEWS:
            browser.open(options.page, width=width, height=_HEIGHT, scheme=scheme)
            browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
            browser.evaluate(f"document.querySelector({top!r}).scrollIntoView()")
            taken = browser.screenshot(Path(folder) / "view.png")
            views.append(
                Image.open(io.BytesIO(taken)).convert("RGB").resize((width, _HEIGHT), Image.Resampling.LANCZOS)
            )
    both = Image.new("RGB", (sum(view.width for view in views) + _GAP, _HEIGHT), "white")
    both.paste(views[0], (0, 0))
    both.paste(views[1], (views[0].width + _GAP, 0))
    both.quantize(_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
