"""The page: its head, its sections, and what it lacks."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from importlib.resources import files

from ..build import __version__
from . import words
from .figures import curve_figure, pattern
from .layers import overview, rounds_section, stopping, values_section
from .markup import Content, Element, element, to_html
from .measurements import before_and_after, latency, lede, size_curve, tiles
from .run import Run
from .tables import Cell, table

__all__ = ["report_page"]

# Nothing is loaded and nothing runs, whatever a record holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(run: Run) -> str:
    """Write a run as one page of HTML, which needs no other file, no network and no script."""
    title = f"{run.network}, pruned"
    sections = list(_sections(run))
    contents = element(
        "nav",
        element("ul", (element("li", element("a", heading, href=f"#{key}")) for key, heading, _ in sections)),
        aria_label="Contents",
    )
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", files(__package__).joinpath("style.css").read_text(encoding="utf-8")),
        ),
        element(
            "body",
            pattern(),
            element("header", element("h1", title), element("p", lede(run), class_="lede"), tiles(run), contents),
            element("main", (_section(key, heading, content) for key, heading, content in sections)),
            element("footer", _footer(run)),
        ),
        lang="en",
    )
    return to_html(page)


def _footer(run: Run) -> Element:
    made = f"Made by shapley-cuda report {__version__} from the folder {run.name}. The network in it, in Python: "
    return element("p", made, element("code", f"sc.load_pruned(model, {run.name!r})"))


def _section(key: str, heading: str, content: Iterable[Content]) -> Element:
    name = f"{key}-heading"
    return element("section", element("h2", heading, id=name), content, id=key, aria_labelledby=name)


def _sections(run: Run) -> Iterator[tuple[str, str, list[Content]]]:
    """Ids, headings and contents of what the run has."""
    if run.record is not None:
        yield "before-after", "Before and after", [before_and_after(run), *latency(run)]
    curve = list(_curve(run))
    if curve:
        yield "size", "Accuracy against size", curve
    yield "removed", "What was removed, and why", list(overview(run))
    if run.rounds:
        yield "rounds", "Rounds", list(rounds_section(run))
    elif run.whole.estimates:
        yield "values", "Values of the channels", list(values_section("layer", run.whole, run))
    if any(cut.estimates for cut in (run.whole, *run.rounds)):
        yield "stopped", "How the estimates stopped", list(stopping(run))
    repeat = list(_repeat(run))
    if repeat:
        yield "repeat", "How to repeat it", repeat
    missing = list(_missing(run))
    if missing:
        yield "missing", "What this report lacks", [element("ul", (element("li", text) for text in missing))]


def _curve(run: Run) -> Iterator[Content]:
    curve = size_curve(run)
    if curve is None:
        return
    yield curve_figure("curve", curve)
    rows = [
        [Cell(one.label), Cell(words.percent(one.size)), Cell(words.accuracy(one.accuracy)),
         Cell(f"\u00b1{words.SPACE}{100 * words.accuracy_error(one.accuracy, curve.n_samples):.1f}")]
        for one in sorted([*curve.points, *(one for kind, one in curve.marked if kind == "after")],
                          key=lambda one: (-one.size, one.accuracy))
    ]  # fmt: skip
    numbers = table("Accuracy against size", ["Network", "Parameters", "Accuracy", f"95{words.SPACE}%"], rows)
    yield element("details", element("summary", "The same in numbers"), numbers)


def _repeat(run: Run) -> Iterator[Content]:
    record = run.record
    commands = [run.ranking_command, record.command if record is not None else ()]
    lines = list(dict.fromkeys(shlex.join(command) for command in commands if command))
    if lines:
        yield element("p", "In the folder that it was run in, with the same seed, threads and versions:")
        yield element("pre", element("code", "\n".join(lines)))
    if record is not None:
        rows = {"finished": record.finished, "took": words.span(record.seconds), **record.environment}
        rows |= {name: value for name, value in record.named.items() if value is not None}
        if record.retraining is not None:
            rows["retraining"] = ", ".join(f"{name} {value}" for name, value in record.retraining.items())
        pairs = [(element("dt", name.replace("_", " ")), element("dd", value)) for name, value in rows.items()]
        yield element("dl", pairs)


def _missing(run: Run) -> Iterator[str]:
    """What a reader might look for in vain, and why."""
    record = run.record
    if record is None:
        yield "Measurements, the command and the environment: there is no results.json."
    else:
        if not record.n_test:
            yield "Accuracies: the data have no split test with classes."
        elif not record.curve and not record.rounds:
            yield "The curve of accuracy against size: the run did without it (--no-curve)."
        if record.retraining is None:
            yield "Accuracy after retraining: nothing was retrained."
        if not record.latencies:
            yield "Latencies: none were measured."
    cuts = run.rounds or (run.whole,)
    # A layer of a single channel needs no values.
    without = [name for cut in cuts for name, n in cut.plan.n_players.items() if n > 1 and name not in cut.estimates]
    if without and not any(cut.estimates for cut in cuts):
        yield "Values of the channels: the folder holds none."
    elif without:
        yield f"Values of {', '.join(dict.fromkeys(without))}: the folder holds none."
    plain = {estimate.method for cut in cuts for estimate in cut.estimates.values() if estimate.standard_error is None}
    for method in sorted(plain):
        yield f"Error bars: the method {method} tells no errors."
