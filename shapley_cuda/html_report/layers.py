"""The report's part about layers: what went, why, how sure that is, and how the estimates stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..estimate import Estimate
from ..report import STOPPED, relative_error
from . import words
from .figures import kept_bar, values_figure
from .markup import Content, Element, dotted, element
from .run import Cut, Run
from .tables import Cell, table

__all__ = ["overview", "rounds_section", "stopping", "values_section"]

_OPEN_AT_MOST = 6  # layers whose figures are to be seen at once
_ROWS_AT_MOST = 12  # of a table that is to be seen at once
_METHODS = {
    "permutation": "Shapley values: what a channel adds on average, when channels join the network in random orders",
    "regression": "Shapley values, by least squares on random sets of channels",
    "exact": "Shapley values, from all sets of channels",
    "partial": "the terms of Shapley values with few channels removed, or present",
    "leave_one_out": "what the network loses without the channel alone",
    "least_squares": "a plain fit to random sets of channels, which is biased",
}


def overview(run: Run) -> Iterator[Content]:
    """What was removed, layer by layer, and why."""
    plan = run.whole.plan
    goal = words.goal(plan.options)
    if goal:
        yield element("p", f"The plan was to {goal}. In each layer the channels of least value went.")
    cuts = run.rounds or (run.whole,)
    methods = dict.fromkeys(estimate.method for cut in cuts for estimate in cut.estimates.values())
    for method in methods:
        unit = words.unit(method, run.metric)
        what = f"{_METHODS[method]}; here, {unit}" if method in _METHODS else f"scores: {unit}"
        yield element("p", f"Values are {what} (method {method}).")
    rows = []
    for name, n in plan.n_players.items():
        n_kept = n - len(plan.removed[name])
        share = _removed_value(run.whole, name)
        kept = element("div", element("span", f"{n} \u2192 {n_kept}"), kept_bar(n_kept, n), class_="kept-of")
        cells = [Cell(dotted(name), "layer-name"), Cell(kept, "bar-cell")]
        rows.append([*cells, Cell("" if share is None else words.percent(share))])
    if any(row[2].content for row in rows):
        yield element(
            "p", "Value removed is the share of the layer's value that the removed channels had. The better values "
            "tell channels apart, the smaller it is than the share of channels that went."
        )  # fmt: skip
    headings = ["Layer", "Channels kept (removed hatched)", "Value removed"]
    yield table("What was removed of each layer", headings, rows)
    untouched = dict(run.record.refused if run.record is not None else {}) | dict(run.left_out)
    untouched = {name: reason for name, reason in untouched.items() if name not in plan.n_players}
    if untouched:
        items = [element("li", element("b", name), f": {reason}") for name, reason in untouched.items()]
        yield element("details", element("summary", f"{len(items)} more cannot be pruned, and why"),
                      element("ul", items))  # fmt: skip


def values_section(key: str, cut: Cut, run: Run, *, may_be_open: bool = True) -> Iterator[Content]:
    """A figure for each layer."""
    are_open = may_be_open and len(cut.estimates) <= _OPEN_AT_MOST
    yield element(
        "div",
        (_layer(f"{key}-{number}", cut, name, run, are_open) for number, name in enumerate(cut.plan.n_players)),
        class_="layers",
    )


def rounds_section(run: Run) -> Iterator[Content]:
    """What each round did."""
    record = run.record
    if record is not None and len(record.rounds) == len(run.rounds):
        rows = []
        for number, (cut, done) in enumerate(zip(run.rounds, record.rounds, strict=True), start=1):
            before, after = cut.n_channels
            accuracies = (done.pruned, done.recalibrated, done.retrained)
            cells = [Cell(number), Cell(f"{before}\u00a0\u2192\u00a0{after}")]
            cells.append(Cell(words.count(cut.plan.parameters[1])))
            rows.append([*cells, *(Cell("" if a is None else words.accuracy(a)) for a in accuracies)])
        headings = ["Round", "Channels", "Parameters", "After the cut", "Recalibrated", "Retrained"]
        yield element(
            "p", f"Accuracies of rounds are those on the {record.n_select:,} samples of the selection split, which the "
            "best epoch was chosen by; they flatter."
        )  # fmt: skip
        yield table("Rounds", headings, rows)
    for number, cut in enumerate(run.rounds, start=1):
        yield element("h3", f"Round {number}")
        yield element("p", "Channels are those that the network had in this round, numbered anew.")
        yield from values_section(f"round-{number}", cut, run, may_be_open=number == 1)


def stopping(run: Run) -> Iterator[Content]:
    """How the estimates ended, and what they took."""
    cuts = run.rounds or (run.whole,)
    estimates = [(f"{name}, round {number}" if run.rounds else name, estimate)
                 for number, cut in enumerate(cuts, start=1) for name, estimate in cut.estimates.items()]  # fmt: skip
    rows = []
    for name, estimate in estimates:
        error = relative_error(estimate)
        rows.append([
            Cell(dotted(name), "layer-name"), Cell(STOPPED.get(estimate.stopped, estimate.stopped), "words"),
            Cell("" if error is None else words.percent(error)), Cell(words.count(estimate.n_evaluations)),
            Cell(words.span(estimate.seconds)),
        ])  # fmt: skip
    total = sum(estimate.n_evaluations for _, estimate in estimates)
    seconds = sum(estimate.seconds for _, estimate in estimates)
    what = f"{words.count(total)} evaluations of one sample under one set of channels" if total else "no evaluations"
    said = f"Ranking took {what}, and {words.span(seconds)}."
    if any(row[2].content for row in rows):
        said += " The error is the largest standard error over the range of the layer's values."
    yield element("p", said)
    counts = Counter(STOPPED.get(estimate.stopped, estimate.stopped) for _, estimate in estimates)
    reasons = "; ".join(f"{reason}: {n} layer{'' if n == 1 else 's'}" for reason, n in counts.items())
    headings = ["Layer", "Stopped because", "Error", "Evaluations", "Time"]
    found = table("How the estimate of each layer stopped", headings, rows)
    yield element("details", element("summary", reasons), found) if len(rows) > _ROWS_AT_MOST else found
    code = element("code", "\n".join(_settings(estimates)))
    yield element("details", element("summary", "Settings of the ranking"), element("pre", code))


def _layer(key: str, cut: Cut, name: str, run: Run, is_open: bool) -> Element:
    removed, n = cut.plan.removed[name], cut.plan.n_players[name]
    summary = element("summary", element("span", dotted(name), class_="layer"), " ",
                      element("span", f"{len(removed)} of {n} removed", class_="muted"))  # fmt: skip
    estimate = cut.estimates.get(name)
    content: list[Content]
    if estimate is None:
        content = [element("p", "No values of this layer are recorded.", class_="missing")]
    else:
        figure = values_figure(key, estimate, removed, words.unit(estimate.method, run.metric))
        said = _boundary(estimate, removed)
        content = [figure, element("p", said) if said else None]
    if removed:
        content.append(element("details", element("summary", "Which channels went"),
                               element("p", words.ranges(removed), class_="channels")))  # fmt: skip
    return element("details", summary, content, class_="card", open="" if is_open else None)


def _boundary(estimate: Estimate, removed: list[int]) -> str:
    """How sure it is that these channels and no others belong removed."""
    values, n_gone = estimate.values.sort().values, len(removed)
    if estimate.standard_error is None or not 0 < n_gone < len(values):
        return ""
    middle = float(values[n_gone - 1] + values[n_gone]) / 2
    unsure = int(((estimate.values - middle).abs() <= words.Z95 * estimate.standard_error).sum())
    if unsure == 0:
        said = "No channel is within its error of the boundary: it is settled which of them go."
    elif unsure == 1:
        said = f"1 of {len(values)} channels is within its error of the boundary: whether it goes is not settled."
    else:
        said = f"{unsure} of {len(values)} channels are within their errors of the boundary: "
        said += "which of them go is not settled."
    if estimate.population_standard_error is not None:
        ratio = float((estimate.population_standard_error / estimate.standard_error).nanmedian())
        if ratio > 1 and ratio != float("inf"):
            said += f" Errors are those for these samples; for others like them they are {ratio:.1f} times as large."
    return said


def _removed_value(cut: Cut, name: str) -> float | None:
    """Share of a layer's value that went, where values sum to what the layer is worth."""
    estimate = cut.estimates.get(name)
    if estimate is None or estimate.method not in ("permutation", "regression", "exact"):
        return None
    total = float(estimate.values.sum())
    share = float(estimate.values[cut.plan.removed[name]].sum()) / total if total > 0 else -1
    return share if 0 <= share <= 1 else None


def _settings(estimates: Sequence[tuple[str, Estimate]]) -> Iterator[str]:
    """A line of what all layers have in common, and one for each layer that has more to say."""
    of_each = {
        name: {"method": estimate.method, "seed": estimate.seed} | estimate.options for name, estimate in estimates
    }
    first = next(iter(of_each.values()))
    common = {key: value for key, value in first.items() if all(key in s and s[key] == value for s in of_each.values())}
    for name, settings in {"all layers": common, **of_each}.items():
        told = [f"{key} {value}" for key, value in settings.items() if settings is common or key not in common]
        if told:
            yield f"{name}: {', '.join(told)}"
