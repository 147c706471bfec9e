"""The report's part about the network as a whole: its size, its accuracy, its speed."""

from __future__ import annotations

from collections.abc import Iterator

from ..latency import LatencyComparison
from ..run_record import RunRecord, Stage
from . import words
from .figures import Measured, SizeCurve
from .markup import Content, Element, element
from .run import Run
from .tables import Cell, table

__all__ = ["before_and_after", "latency", "lede", "size_curve", "tiles"]

_NAMES = {"pruned": "right after the cut", "recalibrated": "BatchNorm recalibrated", "retrained": "retrained"}


def lede(run: Run) -> str:
    """What became of the network, in a sentence or two."""
    plan = run.whole.plan
    before, after = run.whole.n_channels
    n_layers = len(plan.n_players)
    said = f"{after:,} of {before:,} channels are left in {n_layers} layer{'' if n_layers == 1 else 's'}."
    said += f" The network has {words.percent(plan.parameters[1] / plan.parameters[0])} of its parameters and takes"
    said += f" {words.percent(plan.macs[1] / plan.macs[0])} of its multiply-accumulates (MACs)."
    stages = _measured_stages(run.record)
    if stages:
        first, last = stages[0], stages[-1]
        n_test = run.record.n_test if run.record is not None else 0
        said += f" It classifies {words.accuracy(last[1])} of {n_test:,} test samples rightly, where it was"
        said += f" {words.accuracy(first[1])} before."
    return said


def tiles(run: Run) -> Element:
    """The figures that matter, large."""
    plan = run.whole.plan
    shown: list[tuple[str, str, str]] = []
    for name, (before, after) in (("Parameters left", plan.parameters), ("MACs left", plan.macs)):
        detail = f"{words.count(before)} \u2192 {words.count(after)}"
        shown.append((name, words.percent(after / before), detail))
    stages = _measured_stages(run.record)
    if stages:
        first, last = stages[0], stages[-1]
        how = _NAMES.get(last[0].name, last[0].name)
        shown.append((f"Accuracy, {how}", words.accuracy(last[1]), f"{words.accuracy(first[1])} before"))
    for one in run.record.latencies[-1:] if run.record is not None else ():
        number = f"{one.speed_up:.2g}\u00a0\u00d7" if one.verdict != "no faster" else "no faster"
        times = f"{words.milliseconds(one.before.median_ms)} \u2192 {words.milliseconds(one.after.median_ms)}"
        shown.append((f"Speed, batch of {one.batch_size}", number, times))
    return element(
        "ul",
        (
            element("li", element("span", name, class_="name"), element("span", number, class_="number"),
                    element("span", detail, class_="muted"))
            for name, number, detail in shown
        ),
        class_="tiles",
    )  # fmt: skip


def before_and_after(run: Run) -> Element:
    """The table of all measurements."""
    record, channels = run.record, run.whole.n_channels
    assert record is not None
    first, last = record.stages[0], record.stages[-1]
    rows = [_row("Channels", f"{channels[0]:,}", f"{channels[1]:,}", channels[1] / channels[0])]
    for name, sizes, say in (
        ("Parameters", (first.parameters, last.parameters), words.count),
        ("MACs", (first.macs, last.macs), words.count),
        ("Weights on disk", (first.weight_bytes, last.weight_bytes), words.megabytes),
    ):
        rows.append(_row(name, say(sizes[0]), say(sizes[1]), sizes[1] / sizes[0]))
    stages = _measured_stages(record)
    for stage, share in stages[1:]:
        name = f"Accuracy, {_NAMES.get(stage.name, stage.name)}"
        texts = [_with_error(value, record.n_test) for value in (stages[0][1], share)]
        points = 100 * (share - stages[0][1])
        rows.append([Cell(name), Cell(texts[0]), Cell(texts[1]), Cell(_signed(f"{points:+.1f} points"))])
    for one in record.latencies:
        texts = [words.milliseconds(times.median_ms) for times in (one.before, one.after)]
        speed = f"{one.speed_up:.2f}\u00a0\u00d7 as fast"
        rows.append([Cell(f"Latency, batch of {one.batch_size}"), Cell(texts[0]), Cell(texts[1]), Cell(speed)])
    return table("Before and after", ["", "Before", "After", "Change"], rows)


def latency(run: Run) -> Iterator[Content]:
    """What became of the speed, in words."""
    record = run.record
    if record is None:
        return
    if _measured_stages(record):
        yield element(
            "p", f"Accuracies are those on {record.n_test:,} test samples, which served no choice; "
            f"\u00b1 is the 95\u00a0% interval that so many samples leave."
        )  # fmt: skip
    if record.latencies:
        yield element("h3", "Latency")
        yield element("ul", (element("li", _speed(one)) for one in record.latencies), class_="latency")


def size_curve(run: Run) -> SizeCurve | None:
    """Accuracy against size; None where it was not measured."""
    record = run.record
    if record is None:
        return None
    if record.rounds:
        return _curve_of_rounds(run, record)
    stages = _measured_stages(record)
    if not record.curve or not stages:
        return None
    whole, (cut, accuracy), (last, accuracy_last) = record.stages[0], stages[1], stages[-1]
    now = _point("this plan", cut.parameters, accuracy, whole)
    marked = [("now", now)]
    if len(stages) > 2:
        marked.append(("after", _point(_NAMES.get(last.name, last.name), last.parameters, accuracy_last, whole)))
    points = [_point("another size", one.parameters, one.accuracy, whole) for one in record.curve]
    points += [now, _point("original", whole.parameters, stages[0][1], whole)]
    caption = (
        "The line is what the same values give at other sizes, without recalibrating or retraining. Accuracies are "
        f"those on {record.n_test:,} test samples."
    )
    return SizeCurve(_by_size(points), marked, record.n_test, "right after the cut", caption)


def _curve_of_rounds(run: Run, record: RunRecord) -> SizeCurve | None:
    if len(run.rounds) != len(record.rounds) or not record.n_select:
        return None
    whole, points = record.stages[0], list[Measured]()
    if record.select_before is not None:
        points.append(_point("original", whole.parameters, record.select_before, whole))
    for number, (cut, done) in enumerate(zip(run.rounds, record.rounds, strict=True), start=1):
        accuracy = next(a for a in (done.retrained, done.recalibrated, done.pruned) if a is not None)
        points.append(_point(f"round {number}", cut.plan.parameters[1], accuracy, whole))
    caption = f"The original network, and what each round left, on {record.n_select:,} samples of the selection split."
    return SizeCurve(_by_size(points), [], record.n_select, "after each round", caption)


def _by_size(points: list[Measured]) -> list[Measured]:
    return sorted(points, key=lambda one: one.size)


def _point(label: str, parameters: int, accuracy: float, whole: Stage) -> Measured:
    return Measured(label, min(1.0, parameters / whole.parameters), accuracy)


def _measured_stages(record: RunRecord | None) -> list[tuple[Stage, float]]:
    """Stages with their accuracies; none where there are no accuracies."""
    if record is None or not record.n_test:
        return []
    return [(stage, stage.accuracy) for stage in record.stages if stage.accuracy is not None]


def _row(name: str, before: str, after: str, share: float) -> list[Cell]:
    change = "" if share == 1 else _signed(f"{100 * (share - 1):+.0f}\u00a0%")
    return [Cell(name), Cell(before), Cell(after), Cell(change)]


def _signed(text: str) -> str:
    return text.replace("-", "\u2212")


def _with_error(share: float, n: int) -> str:
    return f"{words.accuracy(share)} \u00b1\u00a0{100 * words.accuracy_error(share, n):.1f}"


def _speed(one: LatencyComparison) -> str:
    said, threads = str(one), f"{one.threads} thread{'' if one.threads == 1 else 's'}"
    how = f"Each was timed {one.turns} times, in turns, on {one.device} with {threads}."
    return f"{said[0].upper()}{said[1:]}. {how}"
