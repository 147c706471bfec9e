"""The report's page: well-formed, self-contained, escaped, and true to the run."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import report_runs
import torch

import shapley_cuda as sc
from shapley_cuda.html_report import Cut, Run, report_page, words
from shapley_cuda.html_report.markup import element, to_html
from shapley_cuda.html_report.svg import fitting_axis, nice_ticks

VOID = {"meta", "wbr", "br", "link", "img", "hr", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href", "formaction"}


class Page(HTMLParser):
    """What a page is made of; complains where tags are not closed in the order in which they were opened."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "svg" not in self.open:
            self.texts.append(data)

    @property
    def words(self) -> str:
        """The text, with signs that a keyboard has."""
        text = " ".join(" ".join(self.texts).replace("\u00a0", " ").split())
        return text.replace("\u2212", "-").replace("\u00d7", "x").replace("\u2192", "->")


def page_of(run: Run) -> Page:
    return Page(report_page(run))


RUNS = {
    "complete": report_runs.complete_run,
    "rounds": report_runs.run_in_rounds,
    "many layers": report_runs.many_layers,
    "bare": report_runs.bare_run,
    "hostile": report_runs.hostile_run,
}


@pytest.mark.parametrize("name", RUNS)
def test_page_is_well_formed_and_loads_nothing(name: str) -> None:
    text = report_page(RUNS[name]())
    assert text.startswith("<!DOCTYPE html>\n<html")
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "foreignobject"} & set(tags)
    assert [tags.count(tag) for tag in ("html", "head", "body", "h1", "main", "style")] == [1] * 6
    policy = next(a for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    for _, attributes in page.tags:
        assert all(not name.startswith("on") for name in attributes)
        assert all((attributes.get(name) or "#").startswith("#") for name in LOADING)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert set(re.findall(r"url\(([^)]*)\)", style[1])) == {"#hatch"}
    assert "@import" not in style[1]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text.encode()  # no halves of surrogate pairs


@pytest.mark.parametrize("name", RUNS)
def test_figures_are_xml_with_a_title_and_a_description(name: str) -> None:
    run = RUNS[name]()
    figures = re.findall(r'<svg class="plot".*?</svg></div>', report_page(run), re.DOTALL)
    estimates = sum(len(cut.estimates) for cut in (run.rounds or (run.whole,)))
    assert len(figures) == estimates + (run.record is not None)
    for figure in figures:
        root = ElementTree.fromstring(figure.removesuffix("</div>"))
        assert root.get("role") == "img"
        labels = [root.find("title"), root.find("desc")]
        assert root.get("aria-labelledby", "").split() == [label.get("id") for label in labels if label is not None]
        assert all(label is not None and label.text for label in labels)
        coordinates = [c for path in root.iter("path") for c in re.findall(r"-?[\d.]+|nan|inf", path.get("d", ""))]
        assert coordinates
        assert all(math.isfinite(float(coordinate)) for coordinate in coordinates)


def test_page_says_what_the_run_recorded() -> None:
    said = page_of(report_runs.complete_run()).words
    for text in (
        "lenet5, pruned",
        "171 of 570 channels are left in 3 layers.",
        "It classifies 85.2 % of 1,000 test samples rightly, where it was 90.9 % before.",
        "Channels 570 171 -70 %",
        "Parameters 431,080 40,081 -91 %",
        "MACs 2.29 M 267,900 -88 %",
        "Weights on disk 1.72 MB 0.16 MB -91 %",
        "Accuracy, right after the cut 90.9 % ± 1.8 61.1 % ± 3.0 -29.8 points",
        "Accuracy, retrained 90.9 % ± 1.8 85.2 % ± 2.2 -5.7 points",
        "Latency, batch of 64 3.3 ms 0.8 ms 4.12 x as fast",
        "At batch 1 pruning did not speed the network up",
        "The plan was to keep 30 % of the channels and take the same share of every layer.",
        "here, loss that the channel saves, in nats (method permutation)",
        "conv2 50 -> 15",
        "fc2 : its channels are the network's outputs",
        "conv9 : it mixes channels",
        "Ranking took 570,000 evaluations",
        "fc1 error reached",
        "shapley-cuda rank --model lenet5 --out 'runs/the values'",
        "shapley-cuda prune --values 'runs/the values' --keep 0.3 --epochs 2",
        "torch 2.13.0",
    ):
        assert text in said
    assert "What this report lacks" not in said


def test_curve_is_told_in_numbers_from_the_whole_network_down() -> None:
    said = page_of(report_runs.complete_run()).words
    table = said.partition("The same in numbers")[2].partition("What was removed")[0]
    sizes = [float(share) for share in re.findall(r"([\d.]+) % [\d.]+ % ±", table)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 100
    assert len(sizes) == 8  # five other sizes, the original, this plan, and that after retraining
    assert "this plan 9.3 % 61.1 % ± 3.0" in table
    assert "retrained 9.3 % 85.2 % ± 2.2" in table


def test_removed_channels_are_those_of_the_plan() -> None:
    run = report_runs.complete_run()
    said = page_of(run).words
    for name in report_runs.LAYERS:
        assert words.ranges(run.whole.plan.removed[name]) in said


@pytest.mark.parametrize(
    ("run", "lacking"),
    [
        (report_runs.bare_run(), ["there is no results.json", "Values of the channels: the folder holds none."]),
        (report_runs.run_in_rounds(), ["Error bars: the method taylor tells no errors."]),
        (
            Run("r", report_runs.cut(report_runs.LAYERS), record=report_runs.record(
                stages=tuple(replace(s, accuracy=None) for s in report_runs.record().stages), n_test=0, curve=(),
                latencies=(), retraining=None)),
            ["Accuracies: the data have no split test", "Latencies: none", "nothing was retrained"],
        ),
        (
            Run("r", report_runs.cut(report_runs.LAYERS), record=report_runs.record(curve=())),
            ["The curve of accuracy against size: the run did without it (--no-curve)."],
        ),
        (
            Run("r", Cut(report_runs.complete_run().whole.plan, {"conv1": report_runs.estimate("conv1", 20)})),
            ["Values of conv2, fc1: the folder holds none."],
        ),
    ],
)  # fmt: skip
def test_page_leaves_out_what_is_not_there_and_says_so(run: Run, lacking: list[str]) -> None:
    said = page_of(run).words
    lacks = said.partition("What this report lacks")[2].rpartition("What this report lacks")[2]
    for text in lacking:
        assert text in lacks
    if run.record is None or not run.record.n_test:
        assert "test samples" not in said


def test_hostile_text_is_shown_as_text() -> None:
    text = report_page(report_runs.hostile_run())
    assert "<script" not in text.lower()
    assert "<img" not in text.lower()
    assert "\x00" not in text
    said = page_of(report_runs.hostile_run()).words
    assert said.count('<script src="https://evil.example/x.js">alert(1)</script>') > 20


@pytest.mark.parametrize(
    ("before_ms", "after_ms", "tile", "claim"),
    [
        (4, 1, "4 x", "pruning made the network 4.00 times as fast"),
        (1, 2, "0.5 x", "pruning slowed the network down"),
        (1, 1, "no faster", "pruning did not speed the network up"),
    ],
)
def test_speed_says_whether_pruning_made_the_network_faster(
    before_ms: float, after_ms: float, tile: str, claim: str
) -> None:
    record = report_runs.record(latencies=(report_runs.latency(64, before_ms, after_ms),))
    said = page_of(replace(report_runs.complete_run(), record=record)).words
    assert f"Speed, batch of 64 {tile} {before_ms} ms -> {after_ms} ms" in said
    assert claim in said


def test_page_of_many_layers_is_of_reasonable_size() -> None:
    run = report_runs.many_layers()
    assert len(run.whole.estimates) == 40
    assert sum(run.whole.plan.n_players.values()) > 15_000
    text = report_page(run)
    assert len(text) < 1_000_000
    cards = [attributes for tag, attributes in Page(text).tags if attributes.get("class") == "card"]
    assert len(cards) == 40
    assert all("open" not in attributes for attributes in cards)


def test_layer_of_very_many_channels_is_thinned_and_says_so() -> None:
    run = Run("wide", report_runs.cut({"fc": (4096, 2000)}))
    text = report_page(run)
    assert "Of 4,096 channels every 5th is drawn." in text
    assert len(text) < 100_000


def test_values_that_channels_did_not_go_by_have_no_boundary() -> None:
    cut = report_runs.cut({"conv1": (20, 14)})
    other = replace(cut.plan, removed={"conv1": sorted(cut.estimates["conv1"].ranking()[-14:].tolist())})
    text = report_page(Run("r", Cut(other, cut.estimates)))
    assert "Channels did not go in the order of these values" in text
    assert 'class="boundary"' not in text
    assert 'class="boundary"' in report_page(Run("r", cut))


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.1, 0.1, 0.1, 0.1], "No channel is within its error of the boundary: it is settled which of them go."),
        ([0.1, 0.3, 0.1, 0.1], "1 of 4 channels is within its error of the boundary: whether it goes is not settled."),
        (
            [0.1, 0.3, 0.3, 0.1],
            "2 of 4 channels are within their errors of the boundary: which of them go is not settled.",
        ),
    ],
)
def test_layer_says_how_many_channels_are_not_settled(errors: list[float], said: str) -> None:
    values, error = torch.arange(4.0).double(), torch.tensor(errors, dtype=torch.float64)
    plan = sc.PruningPlan({"a": [0, 1]}, {"a": 4}, (10, 5), (10, 5), (1, 1))
    found = sc.Estimate("a", "permutation", values, error, 9, 0.1, 0, "budget", {}, 3 * error)
    page = page_of(Run("r", Cut(plan, {"a": found}))).words
    assert said in page
    assert "for others like them they are 3.0 times as large" in page


def test_values_all_equal_or_without_finite_errors_are_drawn() -> None:
    plan = sc.PruningPlan({"a": [0], "b": []}, {"a": 2, "b": 1}, (10, 5), (10, 5), (1, 1))
    errors = torch.tensor([math.inf, math.nan], dtype=torch.float64)
    equal = sc.Estimate("a", "exact", torch.zeros(2).double(), errors, 4, 0.0, None, "complete")
    single = sc.Estimate("b", "random", torch.ones(1).double(), None, 0, 0.0, 0, "complete")
    text = report_page(Run("r", Cut(plan, {"a": equal, "b": single})))
    assert not re.search(r"\bnan|\binf\b", text)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([1.0], "values of 'a' must be one for each of the plan's 3 channels, got 1"),
        ([1.0, 2.0, math.nan], r"values of 'a' must be finite numbers below 1e\+100, got others"),
        ([1.0, 2.0, -math.inf], r"values of 'a' must be finite numbers below 1e\+100, got others"),
    ],
)
def test_cut_refuses_values_that_do_not_fit_the_plan(values: list[float], text: str) -> None:
    plan = sc.PruningPlan({"a": [0]}, {"a": 3}, (10, 5), (10, 5), (1, 1))
    found = sc.Estimate("a", "l1", torch.tensor(values).double(), None, 0, 0.0, None, "complete")
    with pytest.raises(ValueError, match=text):
        Cut(plan, {"a": found})


def test_cut_refuses_values_of_a_layer_that_the_plan_does_not_cut() -> None:
    plan = sc.PruningPlan({"a": [0]}, {"a": 3}, (10, 5), (10, 5), (1, 1))
    with pytest.raises(ValueError, match="values must be of a group that the plan cuts, got 'b'"):
        Cut(plan, {"b": report_runs.estimate("b", 3)})


def test_plan_of_absurd_numbers_is_told_at_once() -> None:
    most = (1 << 63) - 1
    plan = sc.PruningPlan({"a": [0]}, {"a": most}, (most, 1), (most, 1), (1, 1))
    said = page_of(Run("r", Cut(plan, {}))).words
    assert f"{most - 1:,} of {most:,} channels are left in 1 layer." in said


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-0.003, 0.5), (0, 1e-7), (0, 5e-324), (-1e99, 1e99), (5, 5), (0, 0), (-2e9, 1e9), (17, 93)],
)
def test_ticks_are_round_and_reach_beyond_the_values(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    step = ticks[1] - ticks[0]
    assert f"{step:.0e}"[0] in "125"
    axis = fitting_axis(low, high)
    assert axis.low < axis.high
    assert axis.low <= low <= high <= axis.high
    assert len(set(axis.labels)) == len(axis.labels)


def test_numbers_are_said_in_few_digits() -> None:
    said = [words.percent(share) for share in (0, 0.004, 0.0931, 0.25, 0.996, 1)]
    assert [text.replace("\u00a0", "") for text in said] == ["0%", "0.4%", "9.3%", "25%", "99.6%", "100%"]
    assert words.ranges([0, 1, 3, 5, 6, 7]) == "0, 1, 3, 5\u20137"
    assert words.ranges([]) == ""
    assert words.count(999_999).replace("\u00a0", " ") == "999,999"
    assert words.count(1_230_000_000).replace("\u00a0", " ") == "1.23 G"
    assert words.span(59.4).replace("\u00a0", " ") == "59 s"
    assert words.span(7500).replace("\u00a0", " ") == "2 h 5 min"
    assert words.milliseconds(1234.5).replace("\u00a0", " ") == "1,234 ms"


def test_accuracy_error_is_wilsons_interval() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263 has the interval 0.2553 to 0.3662.
    assert 2 * words.accuracy_error(81 / 263, 263) == pytest.approx(0.3662 - 0.2553, abs=1e-4)
    assert words.accuracy_error(1, 100) > 0


def test_goals_are_said_in_words() -> None:
    how = {"across": "uniform", "normalise": "none", "multiple_of": 1}
    assert words.goal({"keep": {"a": 3}, **how}) == "keep the number of channels that was named for each layer"
    said = words.goal({"macs": 0.5, "across": "global", "normalise": "mean", "multiple_of": 8}).replace("\u00a0", " ")
    assert said == (
        "leave at most 50 % of the multiply-accumulates, let the channels of all layers compete, by value over what "
        "they cost, compare values as multiples of their layer's mean and round up to multiples of 8"
    )
    assert words.goal({}) == words.goal(how) == ""
    least = words.goal({"keep": 0.5, **how, "keep_at_least": 0.1}).replace("\u00a0", " ")
    assert least.endswith("and keep at least 10 % of every layer")
    assert words.goal({"keep": 0.5, **how, "keep_at_least": {"a": 3}}).endswith("what was named for some layers")
    assert words.goal({"keep": 0.5, **how, "rounds": 3}).endswith("of every layer and get there in 3 rounds")


def test_elements_escape_text_and_attributes() -> None:
    made = element(
        "p", "a < b & c", [element("b", None, 3), "\x07tail"], class_="x", data_name='"&\ud800', left_out=None
    )
    escaped = '<p class="x" data-name="&quot;&amp;\ufffd">a &lt; b &amp; c<b>3</b>\ufffdtail</p>'
    assert to_html(made) == f"<!DOCTYPE html>\n{escaped}\n"
