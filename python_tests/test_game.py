"""The channel game: payoffs, costs, errors, and that nothing of the caller's is changed."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from collections.abc import Callable

import pytest
import torch
from architectures import N_CLASSES, N_SAMPLES, Chain, build, prepared
from tolerances import CHUNKS_AGREE, PATHS_AGREE
from torch import Tensor, nn
from torch.nn import functional as F
from walk_masks import all_masks_of_walks

import shapley_cuda as sc
from shapley_cuda.groups import cut_channels
from shapley_cuda.samplers import masks_of_codes

RELATIVE, ABSOLUTE = PATHS_AGREE


def random_masks(count: int, n_players: int, seed: int = 0) -> Tensor:
    return torch.rand(count, n_players, generator=torch.Generator().manual_seed(seed)) < 0.6


def doubled_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return 2 * F.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture(params=[("chain", "conv1"), ("chain", "conv2"), ("chain", "fc1"), ("branching", "conv1")])
def game(request: pytest.FixtureRequest) -> sc.ChannelGame:
    """One game for each kind of path: suffix, walk with a suffix, walk to the head, hooks."""
    family, group = request.param
    model, inputs, targets = build(family)
    return sc.ChannelGame(model, group, (inputs, targets))


def test_call_is_minus_the_mean_loss_of_the_pruned_network(game: sc.ChannelGame) -> None:
    inputs, targets = game.data.inputs, game.data.targets
    for kept in ([0, 2, 3], [5], list(range(game.n_players))):
        mask = torch.zeros(1, game.n_players, dtype=torch.bool)
        mask[0, kept] = True
        removed = [c for c in range(game.n_players) if c not in kept]
        pruned = cut_channels(game.model, {game.group.name: removed}, inputs[:1])
        with torch.no_grad():
            expected = -F.cross_entropy(pruned(inputs), targets).item()
        values = game(mask)
        assert values.dtype == torch.float64
        assert values.item() == pytest.approx(expected, rel=1e-5)


def test_call_is_the_mean_of_row_values(game: sc.ChannelGame) -> None:
    masks = random_masks(9, game.n_players)
    rows = game.row_values(masks.repeat_interleave(N_SAMPLES, 0), torch.arange(N_SAMPLES).repeat(9))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(game(masks), rows.view(9, -1).double().mean(1), rtol=RELATIVE, atol=ABSOLUTE)


def test_walk_values_begin_empty_and_end_full(game: sc.ChannelGame) -> None:
    permutations, samples = sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 2 * N_SAMPLES)
    values = game.walk_values(permutations, samples)
    assert values.shape == (2 * N_SAMPLES, game.n_players + 1)
    assert values.dtype == torch.float32
    for column, kept in ((0, False), (game.n_players, True)):
        masks = torch.full((len(samples), game.n_players), kept)
        torch.testing.assert_close(values[:, column], game.row_values(masks, samples), rtol=RELATIVE, atol=ABSOLUTE)


def test_walk_values_add_up_to_the_worth_of_everyone(game: sc.ChannelGame) -> None:
    permutations, samples = sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 2 * N_SAMPLES)
    marginals = game.walk_values(permutations, samples).double().diff(dim=1)
    worth = game(torch.ones(1, game.n_players, dtype=torch.bool)) - game(
        torch.zeros(1, game.n_players, dtype=torch.bool)
    )
    assert marginals.sum(1).mean().item() == pytest.approx(worth.item(), rel=1e-5)


def test_walk_values_only_where_needed_are_those_of_whole_walks(game: sc.ChannelGame) -> None:
    permutations, samples = sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 2 * N_SAMPLES)
    needed = random_masks(2 * N_SAMPLES, game.n_players + 1, seed=1)
    needed[:2] = torch.tensor([[True], [False]])
    whole = game.walk_values(permutations, samples)
    already = game.n_evaluations
    values = game.walk_values(permutations, samples, needed)
    assert not values[~needed].any()
    torch.testing.assert_close(values[needed], whole[needed], rtol=CHUNKS_AGREE[0], atol=CHUNKS_AGREE[1])
    # Where one kernel goes from a walk to its payoffs, it takes all steps.
    assert game.n_evaluations - already == (needed.numel() if game._head is not None else needed.sum())
    assert not game.walk_values(permutations, samples, torch.zeros_like(needed)).any()


def test_walk_values_needed_of_another_shape_or_type_is_refused(game: sc.ChannelGame) -> None:
    walks = sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 2)
    for needed in (torch.ones(2, game.n_players, dtype=torch.bool), torch.ones(2, game.n_players + 1)):
        with pytest.raises(ValueError, match=rf"^needed must be bool with shape \[2, {game.n_players + 1}\], got"):
            game.walk_values(*walks, needed)
    assert game.n_evaluations == 0


def test_n_evaluations_counts_every_row_of_every_call(game: sc.ChannelGame) -> None:
    assert game.n_evaluations == 0
    game(random_masks(3, game.n_players))
    assert game.n_evaluations == 3 * N_SAMPLES
    game.row_values(random_masks(5, game.n_players), torch.zeros(5, dtype=torch.int64))
    assert game.n_evaluations == 3 * N_SAMPLES + 5
    game.walk_values(*sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 4))
    assert game.n_evaluations == 3 * N_SAMPLES + 5 + 4 * (game.n_players + 1)


def test_calls_of_nothing_give_nothing_and_cost_nothing(game: sc.ChannelGame) -> None:
    no_masks, no_samples = torch.empty(0, game.n_players, dtype=torch.bool), torch.empty(0, dtype=torch.int64)
    assert game(no_masks).shape == (0,)
    assert game.row_values(no_masks, no_samples).shape == (0,)
    nobody = torch.empty(0, game.n_players, dtype=torch.int32)
    assert game.walk_values(nobody, no_samples).shape == (0, game.n_players + 1)
    assert game.n_evaluations == 0


def test_all_payoffs_are_those_of_the_call_by_code(game: sc.ChannelGame) -> None:
    payoffs = game.all_payoffs()
    assert game.n_evaluations == 2**game.n_players * N_SAMPLES
    masks = masks_of_codes(torch.arange(2**game.n_players), game.n_players)
    assert payoffs.dtype == torch.float64
    torch.testing.assert_close(payoffs, game(masks), rtol=RELATIVE, atol=ABSOLUTE)
    assert payoffs.std() > 1e-4  # else agreement would mean nothing


@pytest.mark.parametrize("metric", ["accuracy", doubled_loss])
def test_all_payoffs_of_a_head_are_those_of_its_metric(metric: str | Callable[[Tensor, Tensor], Tensor]) -> None:
    model, inputs, targets = build("chain")
    game = sc.ChannelGame(model, "fc1", (inputs, targets), metric=metric)
    masks = masks_of_codes(torch.arange(2**game.n_players), game.n_players)
    torch.testing.assert_close(game.all_payoffs(), game(masks), rtol=RELATIVE, atol=ABSOLUTE)


def test_all_payoffs_in_several_calls_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, targets = build("chain")
    game = sc.ChannelGame(model, "conv2", (inputs, targets), path="suffix")
    whole = game.all_payoffs()
    monkeypatch.setattr("shapley_cuda.game._MASKS_AT_ONCE", 7)
    relative, absolute = CHUNKS_AGREE
    torch.testing.assert_close(game.all_payoffs(), whole, rtol=relative, atol=absolute)


def test_all_payoffs_too_many_players_names_the_cost_and_the_alternatives() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 25), nn.ReLU(), nn.Linear(25, N_CLASSES)))
    game = sc.ChannelGame(model, "0", (torch.ones(3, 4), torch.tensor([0, 1, 2])))
    message = r"at most 24 players, got 25: it would evaluate 2\^25 coalitions of 3 samples each; take the permutation"
    with pytest.raises(ValueError, match=message):
        game.all_payoffs()
    assert game.n_evaluations == 0


@pytest.mark.parametrize("group", ["conv1", "conv2", "fc1"])
def test_metric_accuracy_is_a_payoff_itself(group: str) -> None:
    model, inputs, targets = build("chain")
    with torch.no_grad():
        chosen = model(inputs).argmax(1)
    targets = torch.where(torch.arange(N_SAMPLES) < 4, chosen, (chosen + 1) % N_CLASSES)  # four of six are right
    game = sc.ChannelGame(model, group, (inputs, targets), metric="accuracy")
    everyone = torch.ones(1, game.n_players, dtype=torch.bool)
    assert game(everyone).item() == pytest.approx(4 / 6)
    values = game.walk_values(*sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 12))
    assert set(values.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("group", ["conv1", "conv2", "fc1"])
def test_metric_squared_error_is_minus_the_mean_over_outputs(group: str) -> None:
    model, inputs, _ = build("chain")
    targets = torch.randn(N_SAMPLES, N_CLASSES, generator=torch.Generator().manual_seed(0))
    game = sc.ChannelGame(model, group, (inputs, targets), metric="squared_error")
    everyone = torch.ones(N_SAMPLES, game.n_players, dtype=torch.bool)
    with torch.no_grad():
        expected = -((model(inputs) - targets) ** 2).mean(1)
    values = game.row_values(everyone, torch.arange(N_SAMPLES))
    torch.testing.assert_close(values, expected, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("group", ["conv1", "conv2", "fc1"])
def test_metric_callable_agrees_with_the_built_in_one(group: str) -> None:
    model, inputs, targets = build("chain")
    built_in = sc.ChannelGame(model, group, (inputs, targets))
    own = sc.ChannelGame(model, group, (inputs, targets), metric=doubled_loss)
    masks = random_masks(12, own.n_players)
    samples = torch.arange(12) % N_SAMPLES
    walks = sc.WalkSampler(own.n_players, N_SAMPLES).walks(0, 6)
    for actual, expected in (
        (own.row_values(masks, samples), built_in.row_values(masks, samples)),
        (own(masks), built_in(masks)),
        (own.walk_values(*walks), built_in.walk_values(*walks)),
    ):
        torch.testing.assert_close(actual, 2 * expected, rtol=RELATIVE, atol=ABSOLUTE)
        assert not actual.requires_grad
    assert "doubled_loss" in own.describe()


@pytest.mark.parametrize("group", ["conv1", "conv2"])
def test_memory_budget_smaller_chunks_give_the_same_values(group: str) -> None:
    model, inputs, targets = build("chain")
    walks = sc.WalkSampler(sc.find_group(model, group, inputs[:1]).n_players, N_SAMPLES).walks(0, 24)
    masks = random_masks(24, walks[0].shape[1])
    reference = sc.ChannelGame(model, group, (inputs, targets))
    chunk_sizes = set()
    for budget in (reference.bytes_per_row, 20 * reference.bytes_per_row, 6 * reference.bytes_per_walk):
        games = [sc.ChannelGame(model, group, (inputs, targets), memory_budget=budget) for _ in range(2)]
        chunk_sizes.add((games[0].chunk_rows, games[0].chunk_walks))
        for call in (
            lambda game: game.walk_values(*walks),
            lambda game: game.row_values(masks, walks[1]),
            lambda game: game(masks),
        ):
            first, again = (call(game) for game in games)
            assert torch.equal(first, again)
            torch.testing.assert_close(first, call(reference), rtol=CHUNKS_AGREE[0], atol=CHUNKS_AGREE[1])
    assert len(chunk_sizes) == 3


def test_chunks_shrink_with_the_budget_and_never_cut_a_pair() -> None:
    model, inputs, targets = build("chain")
    sizes = []
    row = sc.ChannelGame(model, "conv1", (inputs, targets)).bytes_per_row
    for budget in (row, 100_000, 1_000_000, 10_000_000):
        game = sc.ChannelGame(model, "conv1", (inputs, targets), memory_budget=budget)
        sizes.append((game.chunk_rows, game.chunk_walks))
        assert game.chunk_walks % 2 == 0
        assert game.chunk_rows == 1 or game.chunk_rows * game.bytes_per_row <= budget
        assert game.chunk_walks == 2 or game.chunk_walks * game.bytes_per_walk <= budget
    assert sizes == sorted(set(sizes))
    assert sizes[0] == (1, 2)


def test_walks_wider_than_the_budget_are_evaluated_row_by_row() -> None:
    model, inputs, targets = build("chain")
    most_rows = 0

    def watch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal most_rows
        most_rows = max(most_rows, args[0].shape[0])

    budget = 4 * sc.ChannelGame(model, "conv1", (inputs, targets), path="suffix").bytes_per_row
    game = sc.ChannelGame(model, "conv1", (inputs, targets), memory_budget=budget)
    handle = model.fc1.register_forward_pre_hook(watch)
    game.walk_values(*sc.WalkSampler(6, N_SAMPLES).walks(0, 8))
    handle.remove()
    assert game.chunk_rows == 4  # of the 14 rows of a pair of walks
    assert "not the walk path: a pair of walks takes" in game.describe()
    assert most_rows == 4


def test_describe_says_what_is_played_and_how(game: sc.ChannelGame) -> None:
    text = game.describe()
    assert f"{game.group.name}: {game.n_players} players, {N_SAMPLES} samples on cpu, cross_entropy" in text
    assert f"walks: {game.path} path" in text
    assert all(f"{consumer.name}" in text for consumer in game.group.consumers)


def test_masks_of_walks_grow_by_the_player_that_joins() -> None:
    masks = all_masks_of_walks(torch.tensor([[2, 0, 1]], dtype=torch.int32))
    expected = [[False, False, False], [False, False, True], [True, False, True], [True, True, True]]
    assert masks.tolist() == [expected]


def test_nothing_of_the_callers_is_changed(game: sc.ChannelGame) -> None:
    model, inputs, targets = game.model, game.data.inputs, game.data.targets
    state, data = copy.deepcopy(model.state_dict()), (inputs.clone(), targets.clone())
    wants = [p.requires_grad for p in model.parameters()]
    random_state = torch.get_rng_state()
    masks = random_masks(4, game.n_players)
    masks_before = masks.clone()
    for path in ("auto", "hook"):
        again = sc.ChannelGame(model, game.group.name, (inputs, targets), path=path)
        values = (
            again(masks),
            again.row_values(masks, torch.arange(4)),
            again.walk_values(*sc.WalkSampler(game.n_players, N_SAMPLES).walks(0, 4)),
        )
        assert not any(v.requires_grad for v in values)
    assert torch.equal(masks, masks_before)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == wants
    assert all(p.grad is None for p in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert torch.equal(inputs, data[0])
    assert torch.equal(targets, data[1])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


def test_dropout_in_evaluation_mode_plays_no_part() -> None:
    model, inputs, targets = build("vgg")
    game = sc.ChannelGame(model, "7", (inputs, targets))
    masks = random_masks(4, game.n_players)
    assert torch.equal(game(masks), game(masks))


def test_game_under_inference_mode_works() -> None:
    model, inputs, targets = build("chain")
    masks = random_masks(4, 6)
    expected = sc.ChannelGame(model, "conv1", (inputs, targets))(masks)
    with torch.inference_mode():
        values = sc.ChannelGame(model, "conv1", (inputs, targets))(masks)
    assert torch.equal(values, expected)


def test_single_player_group_is_played() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3)))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    game = sc.ChannelGame(model, "0", (inputs, torch.arange(5) % 3))
    values = game(torch.tensor([[False], [True]]))
    with torch.no_grad():
        alone = -F.cross_entropy(model[2].bias.expand(5, 3), torch.arange(5) % 3)
    assert values[0].item() == pytest.approx(alone.item(), rel=1e-5)


def test_nan_of_one_sample_stays_in_its_rows_and_ranking_refuses_it() -> None:
    model, inputs, targets = build("chain")
    inputs = inputs.clone()
    inputs[3, 0, 0, 0] = float("nan")
    for group in ("conv1", "conv2", "fc1"):
        game = sc.ChannelGame(model, group, (inputs, targets))
        everyone = torch.ones(N_SAMPLES, game.n_players, dtype=torch.bool)
        values = game.row_values(everyone, torch.arange(N_SAMPLES))
        assert values.isnan().tolist() == [False, False, False, True, False, False]
        with pytest.raises(sc.NonFinitePayoff, match=r"walks met a payoff that is NaN or infinite"):
            sc.rank(game, budget=4 * N_SAMPLES * (game.n_players + 1), tolerance=0)


def good_data() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(4)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            lambda m, d: {"model": m.train()},
            ValueError,
            "model must be in evaluation mode (model.eval()), got the model in training mode",
        ),
        (
            lambda m, d: {"model": [m, m.conv2.train()][0]},
            ValueError,
            "model must be in evaluation mode (model.eval()), got conv2 in training mode",
        ),
        (lambda m, d: {"data": d[0]}, TypeError, "data must be a pair of tensors (inputs, targets), got Tensor"),
        (lambda m, d: {"data": [*d, 1]}, TypeError, "data must be a pair of tensors (inputs, targets), got ["),
        (lambda m, d: {"data": (d[0], [0] * 4)}, TypeError, "data must be a pair of tensors (inputs, targets)"),
        (lambda m, d: {"model": "lenet5"}, TypeError, "model must be an nn.Module, got str"),
        (lambda m, d: {"metric": 3}, ValueError, "metric must be one of cross_entropy, accuracy, squared_error or a"),
        (lambda m, d: {"memory_budget": "1"}, ValueError, "memory_budget must be at least 1 byte, an int, or"),
        (
            lambda m, d: {"data": (d[0], d[1].sum())},
            ValueError,
            "data must have samples along dimension 0, got [4, 3, 12, 12] and []",
        ),
        (lambda m, d: {"data": (d[0][:0], d[1][:0])}, ValueError, "data must hold at least one sample, got none"),
        (
            lambda m, d: {"data": (d[0], d[1][:3])},
            ValueError,
            "data must have one target per input, got 4 inputs, 3 targets",
        ),
        (
            lambda m, d: {"data": (d[0].to("meta"), d[1])},
            ValueError,
            "model and data must be on one device, but for data on the CPU, got cpu, meta",
        ),
        (
            lambda m, d: {"data": sc.Split(*d, name="test")},
            ValueError,
            'data must not be the split "test": values estimated on it would make its accuracies too good',
        ),
        (
            lambda m, d: {"data": sc.Split(*d, name="select")},
            ValueError,
            'data must not be the split "select": values estimated on it would make choices made on it look too good',
        ),
        (
            lambda m, d: {"group": "convv1"},
            sc.GroupError,
            "group must name a layer that produces channels, got 'convv1'; did you mean 'conv1'",
        ),
        (
            lambda m, d: {"group": "fc2"},
            sc.GroupError,
            "group 'fc2' cannot be pruned exactly: its channels are outputs of the network",
        ),
        (
            lambda m, d: {"metric": "hinge"},
            ValueError,
            "metric must be one of cross_entropy, accuracy, squared_error or a callable, got 'hinge'",
        ),
        (
            lambda m, d: {"metric": lambda outputs, targets: outputs.sum()},
            ValueError,
            "metric must return one loss per row, [2], got []",
        ),
        (
            lambda m, d: {"path": "fast"},
            ValueError,
            "path must be 'auto', 'walk', 'suffix' or 'hook', got 'fast'",
        ),
        (
            lambda m, d: {"memory_budget": 0},
            ValueError,
            "memory_budget must be at least 1 byte, an int, or a share",
        ),
        (
            lambda m, d: {"memory_budget": 1.5},
            ValueError,
            "memory_budget must be at least 1 byte, an int, or a share",
        ),
        (lambda m, d: {"memory_budget": 1}, ValueError, "memory_budget must hold at least a row, which takes "),
        (
            lambda m, d: {"memory_budget": 2000, "path": "walk"},
            ValueError,
            "memory_budget must hold at least a pair of walks, which takes ",
        ),
        (
            lambda m, d: {"prefix": "cloud"},
            ValueError,
            "prefix must be one of memory, bfloat16, disk, recompute, got 'cloud'",
        ),
        (
            lambda m, d: {"data": (d[0], torch.zeros(4))},
            ValueError,
            "targets must be class indices, int64 [N], for cross_entropy, got torch.float32 [4]",
        ),
        (
            lambda m, d: {"data": (d[0], torch.full((4,), N_CLASSES))},
            RuntimeError,
            "shapley::loss_difference: targets must be in [0, 5), got 5",
        ),
    ],
)
def test_game_bad_argument_is_refused_with_a_text_that_says_what_is_wrong(
    change: Callable[[nn.Module, tuple[Tensor, Tensor]], dict[str, object]], error: type[Exception], text: str
) -> None:
    model, data = prepared(Chain()), good_data()
    arguments = {"model": model, "group": "conv1", "data": data} | change(model, data)
    with pytest.raises(error, match="^" + re.escape(text)):
        sc.ChannelGame(**arguments)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = Chain()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.net(x)
        return y, y * 2


def test_game_network_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^model must return one tensor, got tuple$"):
        sc.ChannelGame(prepared(TwoOutputs()), "net.conv1", good_data())


def test_game_outputs_that_are_no_logits_need_a_callable() -> None:
    model, inputs, _ = build("decoder")
    with pytest.raises(
        ValueError, match=r"^metric 'cross_entropy' needs network outputs \[rows, K\], got \[2, 2, 7, 7\]"
    ):
        sc.ChannelGame(model, "up1", (inputs, torch.zeros(N_SAMPLES, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("masks", "text"),
    [
        (torch.ones(2, 6), "masks must be bool with shape [M, 6], got torch.float32 [2, 6]"),
        (torch.ones(6, dtype=torch.bool), "masks must be bool with shape [M, 6], got torch.bool [6]"),
        (torch.ones(2, 5, dtype=torch.bool), "masks must be bool with shape [M, 6], got torch.bool [2, 5]"),
        (torch.ones(2, 0, dtype=torch.bool), "masks must be bool with shape [M, 6], got torch.bool [2, 0]"),
    ],
)
def test_calls_bad_masks_are_refused(masks: Tensor, text: str) -> None:
    game = sc.ChannelGame(prepared(Chain()), "conv1", good_data())
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        game(masks)
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        game.row_values(masks, torch.zeros(len(masks), dtype=torch.int64))
    assert game.n_evaluations == 0


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (torch.zeros(2), "sample_index must be int64 with shape [2], got torch.float32 [2]"),
        (torch.zeros(3, dtype=torch.int64), "sample_index must be int64 with shape [2], got torch.int64 [3]"),
        (torch.tensor([0, 4]), "sample_index must be in [0, 4), got values from 0 to 4"),
        (torch.tensor([-1, 0]), "sample_index must be in [0, 4), got values from -1 to 0"),
    ],
)
def test_calls_bad_sample_index_is_refused(samples: Tensor, text: str) -> None:
    game = sc.ChannelGame(prepared(Chain()), "conv1", good_data())
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        game.row_values(torch.ones(2, 6, dtype=torch.bool), samples)
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        game.walk_values(torch.arange(6, dtype=torch.int32).repeat(2, 1), samples)
    assert game.n_evaluations == 0


@pytest.mark.parametrize("group", ["conv1", "conv2", "fc1"])
def test_walk_values_rows_that_are_no_permutation_are_refused(group: str) -> None:
    game = sc.ChannelGame(prepared(Chain()), group, good_data())
    good = torch.arange(game.n_players, dtype=torch.int32).repeat(2, 1)
    for place, player in ((1, 0), (0, game.n_players), (0, -1)):
        bad = good.clone()
        bad[1, place] = player
        with pytest.raises((ValueError, RuntimeError), match="permutations must "):
            game.walk_values(bad, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"^permutations must be int32 with shape \[R, {game.n_players}\]"):
        game.walk_values(good[:, 1:], torch.zeros(2, dtype=torch.int64))
    for other, text in ((good.float(), "torch.float32 "), (good.bool(), "torch.bool "), (good.tolist(), "list$")):
        with pytest.raises(ValueError, match=f", got {text}"):
            game.walk_values(other, torch.zeros(2, dtype=torch.int64))


def test_walk_values_permutations_of_64_bits_are_not_cut_to_32() -> None:
    game = sc.ChannelGame(prepared(Chain()), "conv1", good_data())
    walks, samples = torch.arange(6).repeat(2, 1), torch.arange(2)
    assert torch.equal(game.walk_values(walks, samples), game.walk_values(walks.int(), samples))
    walks[1, 0] = 1 << 32  # whose lower half is player 0
    with pytest.raises(ValueError, match="permutations must hold each of the 6 players once"):
        game.walk_values(walks, samples)


def test_calls_of_what_is_no_tensor_are_refused_by_name() -> None:
    game = sc.ChannelGame(prepared(Chain()), "conv1", good_data())
    walks, own = torch.arange(6)[None], torch.zeros(1, dtype=torch.int64)
    for call, text in (
        (lambda: game([[True] * 6]), "masks must be bool with shape [M, 6], got list"),
        (lambda: game.row_values(torch.ones(1, 6, dtype=torch.bool), [0]), "sample_index must be int64 with shape [1]"),
        (lambda: game.walk_values(walks, own, [[True] * 7]), "needed must be bool with shape [1, 7], got list"),
        (lambda: game.walk_values(walks.to("meta"), own), "permutations must be int32 with shape [R, 6]"),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(text)):
            call()
    assert game.n_evaluations == 0


@pytest.mark.parametrize("path", ["walk", "suffix", "hook"])
def test_game_and_what_it_kept_are_freed_with_the_last_reference(path: str) -> None:
    model, inputs, targets = build("chain")
    sc.ChannelGame(model, "conv1", (inputs, targets), path=path)  # what torch imports on first use keeps its frames
    gc.collect()
    gc.disable()
    try:
        game = sc.ChannelGame(model, "conv1", (inputs, targets), path=path)
        sc.rank(game, tolerance=0, budget=200)
        kept = [weakref.ref(game), weakref.ref(game._paths), weakref.ref(game._paths.rows)]
        del game
        assert [reference() for reference in kept] == [None] * 3
    finally:
        gc.enable()
