"""The documentation's code runs, its commands exist, and its pages are all shown.

The Python blocks of a page run in order, in an empty folder; a block with a title is a file that is written there
first. A block that needs what a test has not, such as several processes, has ``<!-- notest: why -->`` above it; one
that needs optional packages has ``<!-- needs: package, ... -->``, and without them the page's test ends there.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from cli_run import succeed

import shapley_cuda as sc
from shapley_cuda.cli import app
from shapley_cuda.rankers import RANKERS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
_FENCE = re.compile(
    r"^(?:<!-- (notest|needs): ([^\n]+) -->\n)?```(\w+)([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL
)


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """What stands behind the language, and the contents, of the page's fenced blocks that can be run."""
    found = _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [
        (rest.strip(), (_skipping(what) if kind == "needs" else "") + body)
        for kind, what, name, rest, body in found
        if name == language and kind != "notest"
    ]


def _skipping(packages: str) -> str:
    """A line that skips the rest of a page where a package is missing."""
    skips = (f"__import__('pytest').importorskip({package.strip()!r})" for package in packages.split(","))
    return "; ".join(skips) + "\n"


def commands(page: str) -> list[list[str]]:
    """The page's calls of the command line, in words."""
    lines = "".join(body for _, body in blocks(page, "sh")).replace("\\\n", " ").splitlines()
    calls = (line.partition("shapley-cuda ")[2] or line.partition("shapley_cuda.cli ")[2] for line in lines)
    return [shlex.split(call, comments=True) for call in calls if call]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, from which modules can be imported. What a page changes elsewhere is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rankers = dict(RANKERS)
    with torch.random.fork_rng(devices=[]):
        yield tmp_path
    RANKERS.clear()
    RANKERS.update(rankers)
    for written in tmp_path.glob("*.py"):
        sys.modules.pop(written.stem, None)


def run_page(page: str, folder: Path) -> int:
    """Run a page's Python blocks; says how many there were."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    sources = blocks(page, "python")
    for number, (rest, source) in enumerate(sources, start=1):
        title = re.fullmatch(r'title="([\w.]+)"', rest)
        assert title or not rest, f"{page}, python block {number}: unknown words {rest!r} behind the language"
        if title:
            (folder / title[1]).write_text(source, encoding="utf-8")
        else:
            exec(compile(source, f"{page}, python block {number}", "exec"), namespace)
    return len(sources)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_blocks_of_a_page_run_in_order(page: str, empty_folder: Path) -> None:
    assert run_page(page, empty_folder) > 0
    if page == "tutorial.md":  # its commands do what its Python did
        for arguments in commands(page):
            succeed(*arguments)
        assert (empty_folder / "runs" / "cut" / "plan.json").exists()


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_of_a_page_and_their_options_exist(page: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, *arguments in commands(page):
        assert name in known
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {word for word in arguments if word.startswith("-")} <= options | {"--help"}


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_lead_to_pages_and_files(page: str) -> None:
    text = _FENCE.sub("", (DOCS / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.partition("#")[0]
        if path and "://" not in path:
            assert ((DOCS / page).parent / path).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    shown = re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(PAGES) <= set(shown)


def test_the_reference_shows_every_public_name_and_every_ranker() -> None:
    pages = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES if page.startswith("api/"))
    shown = set(re.findall(r"^::: shapley_cuda\.(\S+)$", pages, flags=re.MULTILINE))
    assert set(sc.__all__) - {"__version__", "payoffs"} <= shown  # a string, and a module whose functions are shown
    assert {f"payoffs.{name}" for name in sc.payoffs.__all__} <= shown
    for method, ranker in RANKERS.items():
        assert f"| `{method}` | [`{ranker.__name__}`][{ranker.__module__}.{ranker.__name__}] |" in pages
