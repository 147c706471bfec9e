"""The report in a real browser: on a phone and on a projector, light and dark. Pictures go to SHAPLEY_SCREENSHOTS."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import headless
import numpy as np
import pytest
import report_runs
from PIL import Image

from shapley_cuda.html_report import Run, report_page

pytestmark = pytest.mark.skipif(headless.FOUND is None, reason="no chromium: make browser tells how to get one")

RUNS: dict[str, Callable[[], Run]] = {
    "complete": report_runs.complete_run,
    "rounds": report_runs.run_in_rounds,
    "many-layers": report_runs.many_layers,
    "bare": report_runs.bare_run,
    "hostile": report_runs.hostile_run,
}
SIZES = {"phone": (390, 844), "narrow": (360, 640), "projector": (1920, 1080)}
WIDER_THAN_THE_WINDOW = """
[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg")
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))
"""
# What each word stands on, as far as it is painted; contrast as WCAG defines it.
LOWEST_CONTRAST = """
(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = channels(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
  };
  let lowest = 99;
  for (const e of document.querySelectorAll("h1, h2, p, a, th, td, li, dt, dd, summary, span, code, text")) {
    if (!e.textContent.trim()) continue;
    const style = getComputedStyle(e);
    const [a, b] = [channels(e.tagName === "text" ? style.fill : style.color), ground(e)].map(luminance);
    lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return lowest;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[headless.Browser]:
    with headless.browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    for name, run in RUNS.items():
        (folder / f"{name}.html").write_bytes(report_page(run()).encode())
    return {name: folder / f"{name}.html" for name in RUNS}


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(float)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RUNS)
def test_page_fits_the_screen_in_both_schemes(
    name: str, size: str, browser: headless.Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    wanted = os.environ.get("SHAPLEY_SCREENSHOTS")
    folder = Path(wanted) if wanted else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[size]
    seen = {}
    for scheme in ("light", "dark"):
        browser.open(pages[name], width=width, height=height, scheme=scheme)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(WIDER_THAN_THE_WINDOW) == []
        assert browser.evaluate(LOWEST_CONTRAST) >= 4.5
        assert browser.complaints == []
        assert [address for address in browser.requests if not address.startswith("file:")] == []
        assert len(browser.requests) == 1
        seen[scheme] = pixels(browser.screenshot(folder / f"{name}-{size}-{scheme}.png"))
        if wanted:
            browser.screenshot(folder / f"{name}-{size}-{scheme}-whole.png", whole=True)
    assert all(picture.std() > 10 for picture in seen.values())  # not blank
    assert seen["light"].mean() > 200 > 60 > seen["dark"].mean()


def test_hostile_page_runs_nothing(browser: headless.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"], width=800, height=600, scheme="light")
    assert browser.evaluate("document.querySelectorAll('script, img, iframe, object, link').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent").startswith("</title></style><script")
    assert browser.evaluate("document.compatMode") == "CSS1Compat"


def test_figures_show_what_they_say(browser: headless.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["complete"], width=1280, height=900, scheme="light")
    # A dot for each channel, and the boundary where the removed ones end.
    drawn = browser.evaluate("""
      [...document.querySelectorAll("#values figure")].map(f => ["removed", "kept"].map(kind =>
        f.querySelector(`.dot.${kind}`).getAttribute("d").split("M").length - 1))
    """)
    assert drawn == [[gone, n - gone] for n, gone in report_runs.LAYERS.values()]
    shares = browser.evaluate("""
      [...document.querySelectorAll("#values .plot")].map(p => {
        const plot = p.getBoundingClientRect(), line = p.querySelector(".boundary").getBoundingClientRect();
        return (line.left + line.width / 2 - plot.left) / plot.width;
      })
    """)
    assert shares == pytest.approx([gone / n for n, gone in report_runs.LAYERS.values()], abs=0.01)
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    dangling = browser.evaluate("""
      [...document.querySelectorAll("[aria-labelledby]")].flatMap(e => e.getAttribute("aria-labelledby").split(" "))
        .filter(id => !document.getElementById(id)).concat([...document.querySelectorAll("nav a")]
        .filter(a => !document.querySelector(a.getAttribute("href"))).map(a => a.href))
    """)
    assert dangling == []


def test_layers_open_and_close_without_script(browser: headless.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["many-layers"], width=1280, height=900, scheme="light")
    height = "document.querySelector('#values .card').getBoundingClientRect().height"
    closed = browser.evaluate(height)
    browser.evaluate("document.querySelector('#values summary').click()")
    assert browser.evaluate(height) > 3 * closed


def test_printed_page_is_light_and_shows_closed_layers(browser: headless.Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["many-layers"], width=800, height=1100, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("document.querySelector('#values .card').getBoundingClientRect().height") > 200
