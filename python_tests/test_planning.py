"""From rankings to plans: the least valuable go, and a budget is used up as far as whole channels allow."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from architectures import Functional, build, prepared
from torch import Tensor, nn

import shapley_cuda as sc
from shapley_cuda import planning

LENET_SAMPLE = torch.zeros(1, 1, 28, 28)


def test_plan_removes_the_least_valuable_and_keeps_ties_in_order() -> None:
    model, inputs, _ = build("chain")
    values = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 3.0])
    assert sc.plan_pruning(model, {"conv1": values}, {"conv1": 3}, inputs).removed == {"conv1": [0, 2, 3]}
    estimate = sc.Estimate("conv1", "mine", values.double(), None, 0, 0.0, None, "complete")
    assert sc.plan_pruning(model, {"conv1": estimate}, {"conv1": 3}, inputs).kept("conv1") == [1, 4, 5]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (0.5, {"conv1": 3, "fc1": 4}),  # half of nine is rounded to even
        (1.0, {"conv1": 6, "fc1": 9}),
        (0.01, {"conv1": 1, "fc1": 1}),
        ({"conv1": 2, "fc1": 1.0}, {"conv1": 2, "fc1": 9}),
        ({"conv1": 0.34, "fc1": 5}, {"conv1": 2, "fc1": 5}),
    ],
)
def test_plan_keep_is_a_share_or_a_number(keep: Any, kept: dict[str, int]) -> None:
    model, inputs, _ = build("chain")
    rankings = {"conv1": torch.arange(6.0), "fc1": torch.arange(9.0)}
    plan = sc.plan_pruning(model, rankings, keep, inputs)
    assert {name: len(plan.kept(name)) for name in rankings} == kept
    assert plan.n_players == {"conv1": 6, "fc1": 9}


@pytest.mark.parametrize(
    ("rankings", "keep", "text"),
    [
        ({"conv1": torch.zeros(6)}, 0.0, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        ({"conv1": torch.zeros(6)}, 1.5, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        (
            {"conv1": torch.zeros(6)},
            float("nan"),
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping",
        ),
        ({"conv1": torch.zeros(6)}, 1, "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping"),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": 0},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got 0",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": 7},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got 7",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv1": True},
            "keep of 'conv1' must be a share, as a float in (0, 1], or in a mapping of groups a number of channels, "
            "as an int from 1 to 6, got True",
        ),
        (
            {"conv1": torch.zeros(6)},
            {"conv2": 2},
            "keep must name the groups that are ranked, ['conv1'], got ['conv2']",
        ),
        ({"conv1": torch.zeros(5)}, 0.5, "ranking of 'conv1' must have 6 values, got shape [5]"),
        (
            {"conv1": torch.tensor([0, 1, 2, 3, 4, float("nan")])},
            0.5,
            "ranking of 'conv1' must be finite, got NaN or infinite values",
        ),
        ({"conv9": torch.zeros(6)}, 0.5, "group must name a layer that produces channels, got 'conv9'"),
        ({"fc2": torch.zeros(5)}, 0.5, "group 'fc2' cannot be pruned exactly: its channels are outputs of the network"),
    ],
)
def test_plan_bad_argument_is_refused_with_a_text_that_says_what_is_wrong(
    rankings: dict[str, Tensor], keep: Any, text: str
) -> None:
    model, inputs, _ = build("chain")
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        sc.plan_pruning(model, rankings, keep, inputs)


def test_plan_group_under_another_name_is_the_same_group() -> None:
    model, inputs, _ = build("resnet_basic")
    values = torch.arange(8.0)
    plan = sc.plan_pruning(model, {"4.conv2.0": values}, {"4.conv2.0": 5}, inputs)
    assert plan.removed == {"3.conv2.0": [0, 1, 2]}
    with pytest.raises(ValueError, match=r"^rankings must name each group once, got '4.conv2.0' and another layer of"):
        sc.plan_pruning(model, {"3.conv2.0": values, "4.conv2.0": values}, 0.5, inputs)


def test_plan_of_lenet5_pruned_to_8_9_36_counts_what_the_hand_counts() -> None:
    plan = sc.plan_pruning(
        sc.pretrained("lenet5"),
        {"conv1": torch.arange(20.0), "conv2": torch.arange(50.0), "fc1": torch.arange(500.0)},
        {"conv1": 8, "conv2": 9, "fc1": 36},
        LENET_SAMPLE,
    )
    whole = (20 * 25 + 20) + (50 * 20 * 25 + 50) + (500 * 800 + 500) + (10 * 500 + 10)
    cut = (8 * 25 + 8) + (9 * 8 * 25 + 9) + (36 * 9 * 16 + 36) + (10 * 36 + 10)
    assert plan.parameters == (whole, cut) == (431080, 7607)
    whole_macs = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 500 * 800 + 10 * 500
    cut_macs = 24 * 24 * 8 * 25 + 8 * 8 * 9 * 8 * 25 + 36 * 9 * 16 + 10 * 36
    assert plan.macs == (whole_macs, cut_macs) == (2293000, 235944)
    assert plan.input_shape == (1, 1, 28, 28)
    assert str(plan) == (
        "conv1: 20 -> 8, conv2: 50 -> 9, fc1: 500 -> 36; parameters 431,080 -> 7,607 (1.8%); "
        "MACs 2,293,000 -> 235,944 (10.3%)"
    )


SMALL_NETWORKS = {
    "lenet5": lambda: prepared(sc.lenet5((10, 12, 40))),
    "vgg_bn": lambda: prepared(sc.vgg_bn((8, 12, "M", 16, 20, "M", 12))),
}


def ranked_network(name: str) -> tuple[nn.Module, Tensor, dict[str, Tensor]]:
    """A small network, a batch of three, and values of all of its groups, some of them negative."""
    model, generator = SMALL_NETWORKS[name](), torch.Generator().manual_seed(0)
    groups = [group for group in sc.find_groups(model, LENET_SAMPLE) if group.prunable]
    values = {g.name: torch.rand(g.n_players, generator=generator) - 0.1 for g in groups}
    return model, LENET_SAMPLE.expand(3, -1, -1, -1), values


def latency_of_macs(monkeypatch: pytest.MonkeyPatch, batch: Tensor) -> None:
    """Let time pass as MACs do, on the very batch that was given."""

    def measure(models: Sequence[nn.Module], inputs: Tensor, repeats: int) -> list[float]:
        assert inputs.shape == batch.shape
        return [sc.count_macs(model, inputs) / 1000 for model in models]

    monkeypatch.setattr(planning, "measure_latencies", measure)


def numbers_kept(plan: sc.PruningPlan) -> dict[str, int]:
    return {name: len(plan.kept(name)) for name in plan.n_players}


def cost(goal: str, model: nn.Module, values: dict[str, Tensor], batch: Tensor, kept: dict[str, int]) -> float:
    """What is left with so many channels kept, as a share, from a plan that names them."""
    before, after = getattr(sc.plan_pruning(model, values, kept, batch), goal)
    return after / before


def next_to_join(
    model: nn.Module, values: dict[str, Tensor], batch: Tensor, kept: dict[str, int], goal: str, across: str
) -> str:
    """The group whose next channel has the least share, or the greatest value for its price."""
    sizes = {name: len(v) for name, v in values.items()}
    left = [name for name in sizes if kept[name] < sizes[name]]
    if across == "uniform":
        return min(left, key=lambda name: (kept[name] + 0.5) / sizes[name])

    def worth(name: str) -> float:
        value = values[name].sort(descending=True).values[kept[name]].item()
        price = (1 - cost(goal, model, values, batch, sizes | {name: 1})) / (sizes[name] - 1)
        return value / price if value > 0 else value * price

    return max(left, key=worth)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
@pytest.mark.parametrize("across", ["uniform", "global"])
@pytest.mark.parametrize("budget", [0.2, 0.55])
@pytest.mark.parametrize("goal", ["macs", "parameters", "latency"])
def test_plan_budget_is_kept_and_one_more_channel_would_break_it(
    name: str, across: str, goal: str, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, values = ranked_network(name)
    latency_of_macs(monkeypatch, batch)
    plan = sc.plan_pruning(model, values, example_input=batch, across=across, **{goal: budget})
    kept, counted = numbers_kept(plan), "macs" if goal == "latency" else goal
    assert cost(counted, model, values, batch, kept) <= budget
    more = next_to_join(model, values, batch, kept, counted, across)
    assert cost(counted, model, values, batch, kept | {more: kept[more] + 1}) > budget
    assert plan.options == {
        goal: budget, "across": across, "normalise": "none", "multiple_of": 1,
        "keep_at_least": 0.1 if across == "global" else None,
    }  # fmt: skip
    # Within a group, the least valuable went.
    for group, removed in plan.removed.items():
        assert values[group][removed].sum() == pytest.approx(values[group].sort().values[: len(removed)].sum().item())


@pytest.mark.parametrize("budget", [0.2, 0.55])
def test_plan_uniform_budget_leaves_every_group_the_same_share_to_one_channel(budget: float) -> None:
    model, batch, values = ranked_network("vgg_bn")
    plan = sc.plan_pruning(model, values, example_input=batch, parameters=budget)
    shares = [(n - 0.5) / plan.n_players[name] for name, n in numbers_kept(plan).items()]
    steps = [1 / n for n in plan.n_players.values()]
    assert max(shares) <= min(share + step for share, step in zip(shares, steps, strict=True))


def test_plan_latency_records_what_was_measured_on_which_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, values = ranked_network("lenet5")
    latency_of_macs(monkeypatch, batch)
    plan = sc.plan_pruning(model, values, example_input=batch, latency=0.5)
    assert plan.latency is not None
    assert plan.latency.before_ms == 3 * plan.macs[0] / 1000
    assert plan.latency.after_ms == 3 * plan.macs[1] / 1000 <= 0.5 * plan.latency.before_ms
    assert plan.latency.input_shape == (3, 1, 28, 28)
    assert plan.latency.device == "cpu"
    assert plan.input_shape == (1, 1, 28, 28)
    assert sc.PruningPlan.from_json(plan.to_json()) == plan


def test_plan_latency_is_that_of_the_clock() -> None:
    model, _, values = ranked_network("lenet5")
    plan = sc.plan_pruning(model, values, example_input=torch.zeros(4, 1, 28, 28), latency=1.0)
    assert plan.latency is not None
    assert plan.latency.before_ms > 0
    assert plan.latency.after_ms > 0
    assert plan.removed == {name: [] for name in values}


@pytest.mark.parametrize("goal", ["macs", "parameters"])
@pytest.mark.parametrize("across", ["uniform", "global"])
def test_plan_whole_budget_removes_nothing(goal: str, across: str) -> None:
    model, batch, values = ranked_network("lenet5")
    plan = sc.plan_pruning(model, values, example_input=batch, across=across, **{goal: 1.0})
    assert plan.removed == {name: [] for name in values}


def test_plan_global_keep_takes_the_most_valuable_of_all_groups() -> None:
    model, inputs, _ = build("chain")
    values = {"conv1": torch.tensor([6.0, 1, 5, 2, 4, 3]), "fc1": torch.tensor([0.1, 9, 0.2, 0.3, 3.5, 0, 0, 0, 0])}
    plan = sc.plan_pruning(model, values, 0.4, inputs, across="global")
    assert {name: plan.kept(name) for name in values} == {"conv1": [0, 2, 4, 5], "fc1": [1, 4]}
    # Less than half: seven of fifteen.
    assert sum(numbers_kept(sc.plan_pruning(model, values, 0.5, inputs, across="global")).values()) == 7


def test_plan_global_keeps_a_channel_of_a_group_that_only_harms() -> None:
    model, inputs, _ = build("chain")
    values = {"conv1": -torch.arange(1.0, 7.0), "fc1": torch.arange(9.0) - 3}
    plan = sc.plan_pruning(model, values, 0.4, inputs, across="global")
    assert {name: plan.kept(name) for name in values} == {"conv1": [0], "fc1": [4, 5, 6, 7, 8]}


@pytest.mark.parametrize("goal", ["keep", "macs", "parameters"])
def test_plan_global_keeps_a_tenth_of_a_group_of_no_value(goal: str) -> None:
    model, batch, values = ranked_network("lenet5")
    values["fc1"] = torch.zeros(40)
    options = {"example_input": batch, "across": "global", goal: 0.3}
    plans = [sc.plan_pruning(model, values, keep_at_least=least, **options) for least in (None, 0.1, 0.0)]
    by_default, a_tenth, as_it_comes = (numbers_kept(plan)["fc1"] for plan in plans)
    assert as_it_comes < a_tenth == 4
    assert by_default == a_tenth
    assert plans[0] == plans[1]


def test_plan_floors_are_shares_rounded_up_or_numbers_of_some_groups() -> None:
    model, batch, values = ranked_network("lenet5")
    values = {name: -torch.ones(len(v)) for name, v in values.items()}  # as little as may be

    def least(keep_at_least: Any, **options: Any) -> dict[str, int]:
        smallest = r"what is left with (\d+) channels"
        arguments: dict[str, Any] = {"example_input": batch, "across": "global", "keep_at_least": keep_at_least}
        with pytest.raises(ValueError, match=smallest) as refusal:
            sc.plan_pruning(model, values, macs=1e-9, **arguments | options)
        share = re.search(r"at least (\d\.\d+)", str(refusal.value))
        assert share is not None
        return numbers_kept(sc.plan_pruning(model, values, macs=float(share[1]), **arguments | options))

    assert least(0.3) == {"conv1": 3, "conv2": 4, "fc1": 12}
    assert least({"conv2": 5, "fc1": 0.26}) == {"conv1": 1, "conv2": 5, "fc1": 11}
    assert least(0.3, multiple_of=8) == {"conv1": 8, "conv2": 8, "fc1": 16}
    assert least({"conv1": 2}, across="uniform") == {"conv1": 2, "conv2": 1, "fc1": 1}
    assert least(None, across="uniform") == {"conv1": 1, "conv2": 1, "fc1": 1}


def test_plan_floor_that_is_not_reached_changes_nothing() -> None:
    model, batch, values = ranked_network("vgg_bn")
    plans = [
        sc.plan_pruning(model, values, example_input=batch, macs=0.6, across="global", keep_at_least=least)
        for least in (0.0, 0.1)
    ]
    assert plans[0].removed == plans[1].removed


def test_plan_global_of_equal_harm_the_costlier_goes_first() -> None:
    model, batch, _ = ranked_network("lenet5")
    harm = {"conv2": torch.full((12,), -1.0), "fc1": torch.full((40,), -1.0)}
    kept = numbers_kept(sc.plan_pruning(model, harm, example_input=batch, macs=0.5, across="global", keep_at_least=0.0))
    # conv1, which is not ranked, has a quarter of the MACs, so conv2 must go as far as it must; fc1 is all but free.
    assert kept["conv2"] < 12
    assert kept["fc1"] == 40


def test_plan_normalise_mean_makes_the_scale_of_a_group_irrelevant() -> None:
    model, batch, values = ranked_network("vgg_bn")
    scaled = values | {"conv2": 1000 * values["conv2"]}
    for normalise, is_same in (("mean", True), ("none", False)):
        plans = [
            sc.plan_pruning(model, v, example_input=batch, macs=0.5, across="global", normalise=normalise)
            for v in (values, scaled)
        ]
        assert (plans[0].removed == plans[1].removed) == is_same


def test_plan_normalise_mean_of_a_group_of_no_value_is_no_error() -> None:
    model, inputs, _ = build("chain")
    values = {"conv1": torch.zeros(6), "fc1": torch.arange(9.0)}
    plan = sc.plan_pruning(model, values, 0.5, inputs, across="global", normalise="mean")
    assert numbers_kept(plan) == {"conv1": 1, "fc1": 6}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (0.5, {"conv1": 8, "conv2": 8, "fc1": 24}),
        (0.9, {"conv1": 10, "conv2": 12, "fc1": 40}),
        ({"conv1": 1, "conv2": 9, "fc1": 0.6}, {"conv1": 8, "conv2": 12, "fc1": 24}),
    ],
)
def test_plan_multiple_of_rounds_up_to_the_whole_group_at_most(keep: Any, kept: dict[str, int]) -> None:
    model, batch, values = ranked_network("lenet5")
    assert numbers_kept(sc.plan_pruning(model, values, keep, batch, multiple_of=8)) == kept


@pytest.mark.parametrize("across", ["uniform", "global"])
@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_plan_budget_in_multiples_is_kept_and_one_more_multiple_would_break_it(name: str, across: str) -> None:
    model, batch, values = ranked_network(name)
    plan = sc.plan_pruning(model, values, example_input=batch, macs=0.5, across=across, multiple_of=4)
    kept = numbers_kept(plan)
    assert all(n % 4 == 0 or n == plan.n_players[group] for group, n in kept.items())
    assert cost("macs", model, values, batch, kept) <= 0.5
    more = [kept | {g: min(n + 4, plan.n_players[g])} for g, n in kept.items() if n < plan.n_players[g]]
    assert any(cost("macs", model, values, batch, further) > 0.5 for further in more)


def test_plan_same_arguments_same_plan_and_nothing_is_changed() -> None:
    model, batch, values = ranked_network("vgg_bn")
    model.train()
    model.bn1.eval()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plans = [sc.plan_pruning(model, values, example_input=batch, macs=0.4, across="global") for _ in range(2)]
    assert plans[0] == plans[1]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not model.bn1.training


ONE_OF = "plan_pruning: exactly one of keep, macs, parameters, latency must be given, got "


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, ONE_OF + "none"),
        ({"keep": 0.5, "macs": 0.5}, ONE_OF + "keep and macs"),
        ({"macs": 0.5, "parameters": 0.5, "latency": 0.5}, ONE_OF + "macs and parameters and latency"),
        ({"macs": 0.0}, "plan_pruning: macs must be a share, a float in (0, 1], got 0.0"),
        ({"macs": 1}, "plan_pruning: macs must be a share, a float in (0, 1], got 1"),
        ({"parameters": 1.1}, "plan_pruning: parameters must be a share, a float in (0, 1], got 1.1"),
        ({"latency": float("nan")}, "plan_pruning: latency must be a share, a float in (0, 1], got nan"),
        ({"macs": {"conv1": 0.5}}, "plan_pruning: macs must be a share, a float in (0, 1], got {'conv1': 0.5}"),
        ({"keep": 3, "across": "global"}, "plan_pruning: keep must be a share, a float in (0, 1], got 3"),
        (
            {"keep": {"conv1": 3, "fc1": 3}, "across": "global"},
            "plan_pruning: across must be 'uniform' where keep says it for each group, got 'global'",
        ),
        ({"macs": 0.5, "across": "all"}, "plan_pruning: across must be one of uniform, global, got 'all'"),
        ({"macs": 0.5, "normalise": "max"}, "plan_pruning: normalise must be one of none, mean, got 'max'"),
        (
            {"keep": 0.5, "keep_at_least": 0.2},
            "plan_pruning: keep_at_least must be None where keep says what each group keeps, got 0.2; give a budget, "
            "or across='global'",
        ),
        (
            {"macs": 0.5, "keep_at_least": {"conv1": 0.2, "conv7": 3}},
            "keep_at_least must name groups that are ranked, ['conv1', 'fc1'], got ['conv1', 'conv7']",
        ),
        *(
            (
                {"macs": 0.5, "keep_at_least": least},
                "keep_at_least of 'conv1' must be a share, as a float in [0, 1], or in a mapping of groups a number of "
                f"channels, as an int from 1 to 6, got {shown}",
            )
            for least, shown in ((1.5, 1.5), (2, 2), ("few", "'few'"), ({"conv1": 7}, 7), ({"conv1": True}, True))
        ),
        ({"macs": 0.5, "multiple_of": 0}, "plan_pruning: multiple_of must be a positive integer, got 0"),
        ({"macs": 0.5, "multiple_of": 8.0}, "plan_pruning: multiple_of must be a positive integer, got 8.0"),
        (
            {"keep": 0.1, "across": "global"},
            "plan_pruning: keep must be at least 0.1334, what is left with 2 channels in the 2 groups, the fewest that "
            "keep_at_least and multiple_of allow, got 0.1",
        ),
    ],
)
def test_plan_bad_budget_is_refused_with_a_text_that_says_what_is_wrong(options: dict[str, Any], text: str) -> None:
    model, inputs, _ = build("chain")
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        sc.plan_pruning(model, {"conv1": torch.zeros(6), "fc1": torch.zeros(9)}, example_input=inputs, **options)


@pytest.mark.parametrize("goal", ["macs", "parameters", "latency"])
def test_plan_budget_out_of_reach_says_what_can_be_reached(goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, values = ranked_network("lenet5")
    latency_of_macs(monkeypatch, batch)
    text = rf"^plan_pruning: {goal} must be at least (0\.\d{{4}}), what is left with 24 channels in the 3 groups, "
    with pytest.raises(ValueError, match=text) as raised:
        sc.plan_pruning(model, values, example_input=batch, multiple_of=8, **{goal: 0.01})
    found = re.search(text, str(raised.value))
    assert found is not None
    within_reach = sc.plan_pruning(model, values, example_input=batch, multiple_of=8, **{goal: float(found[1])})
    assert numbers_kept(within_reach) == {"conv1": 8, "conv2": 8, "fc1": 8}


@pytest.mark.parametrize(
    "options", [{"keep": 0.5}, {"macs": 0.9}, {"macs": 0.9, "across": "global"}, {"latency": 0.9}], ids=str
)
def test_plan_network_whose_code_counts_channels_is_refused(options: dict[str, Any]) -> None:
    model, inputs = prepared(Functional(lambda x: x * torch.ones(1, 8, 1, 1))), torch.zeros(2, 3, 9, 9)
    text = r"^groups conv1 cannot be pruned: the cut network fails with: (The size of|Given groups)"
    with pytest.raises(sc.GroupError, match=text):
        sc.plan_pruning(model, {"conv1": torch.arange(8.0)}, example_input=inputs, **options)


def test_plan_without_an_example_or_rankings_is_refused() -> None:
    model, _, values = ranked_network("lenet5")
    with pytest.raises(
        TypeError, match=r"^plan_pruning: example_input must be a batch that the model accepts, got Non"
    ):
        sc.plan_pruning(model, values, 0.5)
    with pytest.raises(TypeError, match=r"^rankings must map groups to estimates, got list$"):
        sc.plan_pruning(model, list(values), 0.5, LENET_SAMPLE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^rankings must hold at least one group, got none$"):
        sc.plan_pruning(model, {}, 0.5, LENET_SAMPLE)
