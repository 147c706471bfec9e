"""Walk, suffix and hook path give the same numbers; what a path cannot run it refuses, with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from architectures import FAMILIES, N_CLASSES, UNUSUAL, build, prepared
from tolerances import PATHS_AGREE
from torch import Tensor, nn
from torch.nn import functional as F
from walk_masks import all_masks_of_walks

import shapley_cuda as sc
from shapley_cuda.paths import SuffixPath, WalkPath
from shapley_cuda.prefix import Prefix
from shapley_cuda.tracing import Traced

PATHS = ("walk", "suffix", "hook")


def image_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """For networks whose output is an image: they have no classes."""
    return (outputs.flatten(1).mean(1) - targets) ** 2


def metric_for(outputs: Tensor) -> str | Callable[[Tensor, Tensor], Tensor]:
    return "cross_entropy" if outputs.dim() == 2 else image_loss


def assert_payoffs_agree(actual: Tensor, expected: Tensor) -> None:
    relative, absolute = PATHS_AGREE
    torch.testing.assert_close(actual, expected, rtol=relative, atol=absolute)


def games_of_all_paths(
    model: nn.Module, group: str | sc.Group, data: tuple[Tensor, Tensor], metric: object = "cross_entropy"
) -> dict[str, sc.ChannelGame]:
    games = {}
    for path in PATHS:
        try:
            games[path] = sc.ChannelGame(model, group, data, metric=metric, path=path)
        except sc.PathError:
            continue
    return games


@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
def test_paths_every_family_agree_on_walks_rows_and_shared_coalitions(family: str, device: str) -> None:
    model, inputs, targets = build(family)
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    n_compared = 0
    for group in sc.find_groups(model, inputs[:1]):
        if not group.prunable:
            continue
        games = games_of_all_paths(model, group, (inputs, targets), metric_for(model(inputs)))
        permutations, samples = sc.WalkSampler(group.n_players, len(inputs)).walks(0, 8, device)
        masks = all_masks_of_walks(permutations).flatten(0, 1)
        rows = samples.repeat_interleave(group.n_players + 1)
        walks = games["hook"].walk_values(permutations, samples)
        means = games["hook"](masks[:10])
        for game in games.values():
            assert_payoffs_agree(game.walk_values(permutations, samples), walks)
            assert_payoffs_agree(game.row_values(masks, rows), walks.flatten())
            assert_payoffs_agree(game(masks[:10]), means)
            n_compared += 1
        if family != "branching":
            assert "suffix" in games
        assert walks.std() > 1e-4  # else agreement would mean nothing
    assert n_compared >= 2


@pytest.mark.parametrize("freeze", [False, True])
def test_paths_head_with_each_metric_agree(freeze: bool) -> None:
    model, inputs, targets = build("vgg")
    model.requires_grad_(not freeze)
    permutations, samples = sc.WalkSampler(8, len(inputs)).walks(0, 12)
    wishes = torch.randn(len(inputs), N_CLASSES, generator=torch.Generator().manual_seed(1))
    for metric, wanted in (("cross_entropy", targets), ("accuracy", targets), ("squared_error", wishes)):
        games = games_of_all_paths(model, "13", (inputs, wanted), metric)
        assert set(games) == set(PATHS)
        reference = games["hook"].walk_values(permutations, samples)
        for game in games.values():
            values = game.walk_values(permutations, samples)
            assert not values.requires_grad
            assert_payoffs_agree(values, reference)


def test_paths_channels_last_input_agree() -> None:
    model, inputs, targets = build("resnet_basic")
    permutations, samples = sc.WalkSampler(8, len(inputs)).walks(0, 6)
    expected = sc.ChannelGame(model, "3.conv2.0", (inputs, targets)).walk_values(permutations, samples)
    last = inputs.to(memory_format=torch.channels_last)
    for game in games_of_all_paths(model, "3.conv2.0", (last, targets)).values():
        assert_payoffs_agree(game.walk_values(permutations, samples), expected)


def test_walk_path_columns_of_a_player_that_lie_apart_agree() -> None:
    model = prepared(
        TwoLayers(lambda m, x: m.fc3(m.fc2(torch.cat([m.fc1(x).relu(), m.fc1(x).tanh()], 1)).relu()), nn.Linear(16, 6))
    )
    inputs = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    games = games_of_all_paths(model, "fc1", (inputs, torch.arange(5)))
    assert set(games) == set(PATHS)
    permutations, samples = sc.WalkSampler(8, 5).walks(0, 10)
    values = [game.walk_values(permutations, samples) for game in games.values()]
    assert_payoffs_agree(values[0], values[2])


@pytest.mark.parametrize("group", ["conv1", "conv2", "fc1"])
def test_paths_float64_network_agrees_and_is_left_to_the_suffix_path(group: str) -> None:
    model, inputs, targets = build("chain")
    single = sc.ChannelGame(model, group, (inputs, targets))
    permutations, samples = sc.WalkSampler(single.n_players, len(inputs)).walks(0, 6)
    expected = single.walk_values(permutations, samples)
    games = games_of_all_paths(model.double(), group, (inputs.double(), targets))
    assert set(games) == {"suffix", "hook"}
    for game in games.values():
        values = game.walk_values(permutations, samples)
        assert values.dtype == torch.float32
        assert_payoffs_agree(values, expected)


def test_auto_path_takes_the_fastest_and_says_why_not_the_others() -> None:
    model, inputs, targets = build("chain")
    assert sc.ChannelGame(model, "fc1", (inputs, targets)).path == "walk"
    assert sc.ChannelGame(model, "conv1", (inputs, targets)).path == "walk"
    model, inputs, targets = build("decoder")
    game = sc.ChannelGame(
        model, sc.find_groups(model, inputs)[1], (inputs, targets), metric=lambda z, t: z.flatten(1).mean(1)
    )
    assert game.path == "suffix"
    assert "is a ConvTranspose2d, not an nn.Linear or nn.Conv2d" in game.describe()


def test_auto_path_data_dependent_branch_falls_back_to_hooks_and_says_why() -> None:
    model, inputs, targets = build("branching")
    game = sc.ChannelGame(model, "conv1", (inputs, targets))
    assert game.path == "hook"
    assert re.search(
        "not the suffix path: torch.fx cannot trace the network: TraceError: .*control flow", game.describe()
    )
    with pytest.raises(sc.PathError, match=r"^torch\.fx cannot trace the network: "):
        sc.ChannelGame(model, "conv1", (inputs, targets), path="suffix")


class TwoLayers(nn.Module):
    """Two linear layers and whatever forward does with them."""

    def __init__(self, forward: Callable[[TwoLayers, Tensor], Tensor], second: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 8), second or nn.Linear(8, 6), nn.Linear(6, N_CLASSES)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class OwnLinear(nn.Linear):
    """A subclass may compute anything."""


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            TwoLayers(lambda m, x: m.fc3(torch.relu(m.fc2(m.fc1(x).relu()) + m.fc2(m.fc1(x).tanh())))),
            "consumer fc2 is called 2 times in one forward pass",
        ),
        (
            TwoLayers(lambda m, x: m.fc3(m.fc2(m.fc1(x).relu()).relu()), OwnLinear(8, 6)),
            "consumer fc2 is a OwnLinear, not an nn.Linear",
        ),
        (
            TwoLayers(lambda m, x: m.fc3(m.fc2(torch.cat([m.fc1(x).relu(), x], 1)).relu()), nn.Linear(18, 6)),
            "the consumer also reads channels of another group",
        ),
    ],
)
def test_walk_path_what_it_cannot_run_is_refused_with_the_reason(model: TwoLayers, reason: str) -> None:
    model = prepared(model)
    inputs = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    data = (inputs, torch.arange(5) % N_CLASSES)
    with pytest.raises(sc.PathError, match=re.escape(reason)):
        sc.ChannelGame(model, "fc1", data, path="walk")
    games = games_of_all_paths(model, "fc1", data)
    assert set(games) == {"suffix", "hook"}
    permutations, samples = sc.WalkSampler(8, 5).walks(0, 4)
    assert_payoffs_agree(*(game.walk_values(permutations, samples) for game in games.values()))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda m, x: m.fc3(m.fc2(y := m.fc1(x)) + F.relu(y, inplace=True)[:, :6]), "relu changes fc1 in place"),
        (lambda m, x: m.fc3(m.fc2(m.fc1(x).tanh()) + (r := x[:, :6]) + r.relu_()), "relu_ changes getitem in place"),
        (lambda m, x: m.fc3(m.fc2(m.fc1(x.relu_()).tanh()).tanh()), "relu_ changes x in place"),
    ],
)
def test_paths_value_changed_in_place_and_read_elsewhere_is_left_to_hooks(
    forward: Callable[[TwoLayers, Tensor], Tensor], reason: str
) -> None:
    model = prepared(TwoLayers(forward))
    inputs = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    before = inputs.clone()
    with pytest.raises(sc.PathError, match=f"^{reason}, which is read elsewhere too$"):
        Traced(model, inputs)
    assert torch.equal(inputs, before)


def test_walk_path_residual_around_the_consumer_agrees() -> None:
    # The consumer's reader also reads values of the prefix, which the suffix must gather for each row.
    model = prepared(TwoLayers(lambda m, x: m.fc3(torch.relu(m.fc2(m.fc1(x).relu()) + x[:, :6]) * x.shape[1])))
    inputs = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    games = games_of_all_paths(model, "fc1", (inputs, torch.arange(5)))
    assert set(games) == set(PATHS)
    permutations, samples = sc.WalkSampler(8, 5).walks(0, 10)
    values = [game.walk_values(permutations, samples) for game in games.values()]
    assert_payoffs_agree(values[0], values[2])
    assert_payoffs_agree(values[1], values[2])


def test_walk_path_consumer_with_a_hook_of_its_own_is_left_to_the_suffix_path() -> None:
    model, inputs, targets = build("chain")
    model.fc2.register_forward_hook(lambda layer, args, output: output * 2)
    games = games_of_all_paths(model, "fc1", (inputs, targets))
    assert set(games) == {"suffix", "hook"}
    permutations, samples = sc.WalkSampler(9, len(inputs)).walks(0, 4)
    assert_payoffs_agree(*(game.walk_values(permutations, samples) for game in games.values()))


def test_auto_path_network_with_a_hook_of_its_own_is_left_to_hooks() -> None:
    model, inputs, targets = build("chain")
    model.register_forward_hook(lambda layer, args, output: output * 2)
    game = sc.ChannelGame(model, "conv1", (inputs, targets))
    assert game.path == "hook"
    with torch.no_grad():
        expected = -F.cross_entropy(model(inputs), targets)
    assert game(torch.ones(1, 6, dtype=torch.bool)).item() == pytest.approx(expected.item(), rel=1e-5)


class Upsampler(nn.Module):
    """Calls a transposed convolution with an argument beside its input."""

    def __init__(self, by_keyword: bool) -> None:
        super().__init__()
        self.by_keyword = by_keyword
        self.down = nn.Conv2d(3, 6, 3, 2, 1)
        self.up = nn.ConvTranspose2d(6, N_CLASSES, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, size = F.relu(self.down(x)), x.shape[2:]
        return (self.up(y, output_size=size) if self.by_keyword else self.up(y, size)).mean((2, 3))


@pytest.mark.parametrize("by_keyword", [True, False])
def test_paths_consumer_with_further_arguments_agree(by_keyword: bool) -> None:
    model = prepared(Upsampler(by_keyword))
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert model.up(model.down(inputs)).shape[2:] == (7, 7)  # without its further argument
    games = games_of_all_paths(model, "down", (inputs, torch.arange(4)))
    assert set(games) == {"suffix", "hook"}
    permutations, samples = sc.WalkSampler(6, 4).walks(0, 8)
    assert_payoffs_agree(*(game.walk_values(permutations, samples) for game in games.values()))


class Scaled(nn.Module):
    """Takes a second argument, which has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(10, 8), nn.Linear(8, N_CLASSES)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.fc2(F.relu(self.fc1(x * scale))) * scale


def test_paths_argument_with_a_default_agree() -> None:
    model = prepared(Scaled())
    inputs = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    games = games_of_all_paths(model, "fc1", (inputs, torch.arange(4)))
    assert set(games) == set(PATHS)
    with torch.no_grad():
        expected = -F.cross_entropy(model(inputs), torch.arange(4))
    for game in games.values():
        assert game(torch.ones(1, 8, dtype=torch.bool)).item() == pytest.approx(expected.item(), rel=1e-5)


class Folded(nn.Module):
    """Folds the tokens of a sample into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = F.relu(self.fc2(F.relu(self.fc1(x.flatten(0, 1)))))
        return self.fc3(tokens.view(x.shape[0], x.shape[1], -1).mean(1))


@pytest.mark.parametrize("path", ["auto", "hook", "suffix"])
def test_paths_network_that_folds_into_the_batch_is_refused_with_the_reason(path: str) -> None:
    model = prepared(Folded())
    inputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(sc.PathError, match=r"got 15 entries for 3 rows: the network folds another dimension"):
        sc.ChannelGame(model, "fc1", (inputs, torch.arange(3)), path=path)
    assert sc.ChannelGame(model, "fc2", (inputs, torch.arange(3))).path == "walk"


def test_paths_tokens_in_front_of_the_samples_are_refused_with_the_reason() -> None:
    model = prepared(TwoLayers(lambda m, x: m.fc3(m.fc2(m.fc1(x.transpose(0, 1)).relu()).relu()).mean(0)))
    # As many tokens as samples that the cut is tried on: what looks like samples there is none.
    inputs = torch.randn(6, 4, 10, generator=torch.Generator().manual_seed(0))
    data = inputs, torch.arange(6) % N_CLASSES
    reason = "the input of fc2 has not one entry per sample along its first dimension"
    for path in ("walk", "suffix"):
        with pytest.raises(sc.PathError, match=f"^{reason}$"):
            sc.ChannelGame(model, "fc1", data, path=path)
    for path in ("auto", "hook"):
        with pytest.raises(sc.PathError, match=r"^a consumer of the group got 4 entries for 2 rows: "):
            sc.ChannelGame(model, "fc1", data, path=path)


def test_paths_network_whose_outputs_are_tokens_agree() -> None:
    model = prepared(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, N_CLASSES)))
    inputs = torch.randn(5, 2, 3, 10, generator=torch.Generator().manual_seed(0))
    games = games_of_all_paths(model, "0", (inputs, torch.arange(5)), image_loss)
    assert set(games) == set(PATHS)
    permutations, samples = sc.WalkSampler(8, 5).walks(0, 6)
    expected = games["hook"].walk_values(permutations, samples)
    for game in games.values():
        assert_payoffs_agree(game.walk_values(permutations, samples), expected)


def test_suffix_path_runs_the_prefix_once_per_sample() -> None:
    model, inputs, targets = build("resnet_basic")
    rows = sc.ChannelGame(model, "3.conv1.0", (inputs, targets), path="suffix")._paths.rows
    suffix = rows._suffix
    rows_seen = 0

    def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal rows_seen
        rows_seen += args[0].shape[0]

    assert "3.conv1.0" not in dict(suffix.run.named_modules())
    suffix.run.get_submodule("4.conv1.0").register_forward_pre_hook(count)
    rows.outputs(torch.ones(7, 8, dtype=torch.bool), torch.zeros(7, dtype=torch.int64))
    assert rows_seen == 7


def test_suffix_path_shares_the_run_of_the_prefix_with_the_walk_path() -> None:
    model, inputs, _ = build("chain")
    rows_seen: list[int] = []
    model.conv1.register_forward_hook(lambda layer, args, output: rows_seen.append(len(output)))
    prefix = Prefix(Traced(model, inputs), inputs)
    group = sc.find_group(model, "conv2", inputs[:1])
    rows_seen.clear()
    WalkPath(prefix, group, sc.Execution())
    assert sum(rows_seen) == len(inputs)
    SuffixPath(prefix, group, sc.Execution())
    assert sum(rows_seen) == len(inputs)


def test_suffix_path_of_a_linear_head_has_the_bits_of_the_kernel_and_makes_no_rows() -> None:
    model, inputs, targets = build("chain")
    forced, free = (sc.ChannelGame(model, "fc1", (inputs, targets), path=path) for path in ("suffix", "auto"))
    permutations, samples = sc.WalkSampler(9, len(inputs)).walks(0, 8)
    expected = free.row_values(all_masks_of_walks(permutations).flatten(0, 1), samples.repeat_interleave(10))
    assert forced.path == "suffix"
    forced._paths.rows = None  # type: ignore[assignment]
    assert torch.equal(forced.walk_values(permutations, samples).flatten(), expected)
