"""Attention heads and MLP neurons of transformers as players: the same game, the same invariant, the same refusals."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path

import pytest
import torch
from architectures import N_CLASSES, build, prepared
from attention_families import ChunkedAttention, FusedAttention, Transformer
from cli_run import succeed
from tolerances import MASKED_IS_PRUNED, PATHS_AGREE
from torch import Tensor, nn
from torch.nn import functional as F
from walk_masks import all_masks_of_walks

import shapley_cuda as sc
from shapley_cuda import ops
from shapley_cuda.epilogue import Epilogue
from shapley_cuda.groups import cut_channels
from shapley_cuda.masking import masked_outputs, relative_deviation
from shapley_cuda.paths import LinearWalk

N_BLOCKS = 4
HEADS = [f"blocks.{i}.attention.q" for i in range(N_BLOCKS)]
NEURONS = [f"blocks.{i}.mlp.fc1" for i in range(N_BLOCKS)]
TOKENS = (5, 4)
EXAMPLE = Path(__file__).parent.parent / "examples" / "vit.py"


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return sc.pretrained("vit")


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    images, labels = sc.fashion_mnist_subset("rank")
    return images[:8], labels[:8]


def masks_of(n_players: int, n_masks: int) -> Tensor:
    return torch.rand(n_masks, n_players, generator=torch.Generator().manual_seed(1)) < 0.5


def removed_by(mask: Tensor) -> list[int]:
    return mask.logical_not().nonzero().flatten().tolist()


def tokens(n: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, *TOKENS, generator=torch.Generator().manual_seed(0)), torch.arange(n) % N_CLASSES


def test_vit_has_heads_and_neurons_of_every_block_as_groups(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    groups = {group.name: group for group in sc.find_groups(trained, data[0][:1]) if group.prunable}
    assert sorted(groups) == sorted(HEADS + NEURONS)
    for i in range(N_BLOCKS):
        heads, neurons = groups[HEADS[i]], groups[NEURONS[i]]
        assert (heads.n_players, heads.channels_per_player, neurons.n_players) == (4, 16, 128)
        assert sorted(heads.layers) == [f"blocks.{i}.attention.{layer}" for layer in "kqv"]
        assert str(heads) == f"{HEADS[i]}: 4 heads of 16 channels, read by blocks.{i}.attention.project"
        assert heads.consumers[0].player_of_input.tolist() == [head for head in range(4) for _ in range(16)]
        assert str(neurons) == f"{NEURONS[i]}: 128 channels, read by blocks.{i}.mlp.fc2"
    assert sc.find_group(trained, "blocks.1.attention.v", data[0][:1]).name == HEADS[1]


def test_vit_residual_stream_is_refused_for_its_layernorms(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    reason = (
        "blocks.0.norm1 and 8 more: a LayerNorm normalises over the channels, so removing some changes what the others "
        "become"
    )
    for layer in ("embed", "blocks.2.attention.project", "blocks.3.mlp.fc2"):
        group = sc.find_group(trained, layer, data[0][:1])
        assert (group.name, group.reason) == ("embed", reason)
        with pytest.raises(sc.GroupError, match=f"^group 'embed' cannot be pruned exactly: {re.escape(reason)}$"):
            sc.ChannelGame(trained, layer, data)


@pytest.mark.parametrize("name", HEADS + NEURONS)
def test_vit_pruned_computes_what_masked_does_on_every_path(
    name: str, trained: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    images, labels = data
    games = {path: sc.ChannelGame(trained, name, data, path=path) for path in ("walk", "suffix", "hook")}
    group = games["walk"].group
    for mask in masks_of(group.n_players, 3):
        mask[0] = True
        pruned = cut_channels(trained, {name: removed_by(mask)}, images[:1])
        outputs = pruned(images)
        assert relative_deviation(outputs, masked_outputs(trained, [(group, mask)], images)) < MASKED_IS_PRUNED
        assert relative_deviation(outputs, trained(images)) > 1e-3  # else agreement would mean nothing
        # The mask's players first: the walk passes through it.
        order = torch.cat([mask.nonzero(), mask.logical_not().nonzero()]).flatten().int()
        expected = -F.cross_entropy(outputs, labels, reduction="none")
        for game in games.values():
            along = game.walk_values(order.repeat(len(labels), 1), torch.arange(len(labels)))
            relative, absolute = PATHS_AGREE
            torch.testing.assert_close(along[:, int(mask.sum())], expected, rtol=relative, atol=absolute)


def test_vit_all_groups_at_once_prune_save_and_load(
    trained: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    before = copy.deepcopy(trained.state_dict())
    values = {name: torch.rand(4 if name in HEADS else 128) for name in HEADS + NEURONS}
    plan = sc.plan_pruning(trained, values, 0.5, data[0])
    assert plan.n_players == {name: len(value) for name, value in values.items()}
    pruned = sc.prune(trained, plan, data[0])
    for i, block in enumerate(pruned.blocks):
        assert block.attention.num_heads == 2
        assert block.attention.q.out_features == block.attention.project.in_features == 32
        kept = [16 * head + j for head in plan.kept(HEADS[i]) for j in range(16)]
        assert torch.equal(block.attention.k.weight, trained.blocks[i].attention.k.weight[kept])
        assert block.mlp.fc1.out_features == 64
    assert trained.blocks[0].attention.num_heads == 4
    assert all(torch.equal(before[key], tensor) for key, tensor in trained.state_dict().items())
    n_attention, n_mlp = 4 * 64 * 32 + 3 * 32 + 64, 2 * 64 * 64 + 64 + 64
    assert plan.parameters[1] == sc.count_parameters(pruned) == 138_890 - 4 * (33_216 - n_attention - n_mlp)
    sc.save_pruned(pruned, plan, tmp_path)
    loaded = sc.load_pruned(sc.vit(), tmp_path)
    assert torch.equal(loaded(data[0]), pruned(data[0]))
    assert loaded.blocks[2].attention.num_heads == 2


def test_count_macs_of_a_vit_counts_what_attention_multiplies() -> None:
    model = sc.vit((3, 1), (10, 20), dim=12, head_dim=4, patch_size=7)
    linear = sum(16 * (4 * 12 * 4 * heads + 2 * 12 * neurons) for heads, neurons in ((3, 10), (1, 20)))
    attention = sum(2 * 16 * 16 * 4 * heads for heads in (3, 1))
    assert sc.count_macs(model, torch.zeros(1, 1, 28, 28)) == 16 * 49 * 12 + linear + attention + 12 * 10


@pytest.mark.parametrize("name", [HEADS[1], HEADS[3]])
def test_heads_exact_values_are_those_of_all_networks_that_can_be_cut(
    name: str, trained: nn.Module, data: tuple[Tensor, Tensor]
) -> None:
    images, labels = data
    payoffs: dict[frozenset[int], float] = {}
    for size in range(5):
        for kept in combinations(range(4), size):
            network = cut_channels(trained, {name: sorted({0, 1, 2, 3} - set(kept))}, images[:1]) if kept else None
            if network is None:  # all heads gone: what is left of the attention is its last bias
                network = copy.deepcopy(trained)
                nn.init.zeros_(network.get_submodule(name.removesuffix("q") + "project").weight)
            with torch.no_grad():
                payoffs[frozenset(kept)] = -F.cross_entropy(network(images).double(), labels).item()
    expected = torch.zeros(4, dtype=torch.float64)
    for coalition, payoff in payoffs.items():
        for player in {0, 1, 2, 3} - coalition:
            weight = 1 / (4 * comb(3, len(coalition)))
            expected[player] += weight * (payoffs[coalition | {player}] - payoff)
    estimate = sc.rank(sc.ChannelGame(trained, name, data), "exact")
    torch.testing.assert_close(estimate.values.double(), expected, rtol=1e-4, atol=1e-6)
    total = payoffs[frozenset({0, 1, 2, 3})] - payoffs[frozenset()]
    assert estimate.values.sum().item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("name", [HEADS[0], NEURONS[2]])
def test_estimates_sum_to_what_the_group_is_worth(name: str, trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    game = sc.ChannelGame(trained, name, data)
    estimate = sc.rank(game, tolerance=0, budget=8 * len(data[1]) * (game.n_players + 1))
    none, everyone = game(torch.stack([torch.zeros(game.n_players), torch.ones(game.n_players)]).bool()).tolist()
    assert estimate.values.sum().item() == pytest.approx(everyone - none, abs=1e-5)


@pytest.mark.parametrize("family", ["vit", "fused_attention", "chunked_attention"])
def test_walks_over_heads_are_rows_evaluated_one_by_one(family: str) -> None:
    model, inputs, targets = build(family)
    groups = [g for g in sc.find_groups(model, inputs[:1]) if g.prunable and g.channels_per_player == 2]
    assert [g.n_players for g in groups] == [4, 3]
    for group in groups:
        game = sc.ChannelGame(model, group, (inputs, targets))
        assert "walks: walk path; other rows: suffix path" in game.describe()
        permutations, samples = sc.WalkSampler(group.n_players, len(inputs)).walks(0, 6)
        walks = game.walk_values(permutations, samples)
        for walk, order, sample in zip(walks, all_masks_of_walks(permutations), samples, strict=True):
            rows = [masked_outputs(model, [(group, mask)], inputs[sample : sample + 1]) for mask in order]
            expected = -F.cross_entropy(torch.cat(rows), targets[sample].expand(len(rows)), reduction="none")
            torch.testing.assert_close(walk, expected, rtol=1e-5, atol=1e-5)
        needed = torch.rand(walks.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        torch.testing.assert_close(
            game.walk_values(permutations, samples, needed), walks * needed, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_linear_layer_on_tokens_walks_each_token_to_the_bits_it_has_alone(
    positions: int, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    columns = torch.arange(4 * positions).view(4, positions).flip(0)  # not in their order
    layer = nn.Linear(4 * positions, 6)
    x = torch.randn(3, *shape, 4 * positions, generator=generator)
    residual = torch.randn(3, *shape, 6, generator=generator)
    permutations, index = sc.WalkSampler(4, 3).walks(0, 7)
    walk = LinearWalk(layer, columns, Epilogue(None, activation="relu"), sc.Execution())  # type: ignore[arg-type]
    with torch.no_grad():
        rows = walk.rows(walk.form(x), residual, permutations, index)
        assert rows.shape == (7 * 5, *shape, 6)
        rows = rows.view(7, 5, *shape, 6)
        for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, len(shape)).tolist():
            token = (slice(None), *place)
            alone = ops.permutation_linear(
                walk.form(x)[token].contiguous(), permutations, walk.weight, walk.bias, index,
                residual=residual[token].contiguous(), activation="relu",
            )  # fmt: skip
            assert torch.equal(rows[(slice(None), slice(None), *place)], alone)
        whole = torch.relu(layer(x) + residual)
    torch.testing.assert_close(rows[:, -1], whole[index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", [FusedAttention, ChunkedAttention])
def test_one_layer_for_queries_keys_and_values_is_cut_in_all_three(
    attention: Callable[[int, int, int], nn.Module],
) -> None:
    model = prepared(Transformer(attention, N_CLASSES))
    inputs, _ = tokens()
    pruned = cut_channels(model, {"attentions.0.qkv": [1, 3]}, inputs[:1])
    whole, cut = model.attentions[0], pruned.attentions[0]
    kept = [8 * part + channel for part in range(3) for channel in (0, 1, 4, 5)]
    assert torch.equal(cut.qkv.weight, whole.qkv.weight[kept])
    assert torch.equal(cut.proj.weight, whole.proj.weight[:, [0, 1, 4, 5]])
    assert (whole.num_heads, cut.num_heads, pruned.attentions[1].num_heads) == (4, 2, 3)
    if attention is FusedAttention:
        assert (whole.attn_dim, cut.attn_dim) == (8, 4)
    again = cut_channels(pruned, {"attentions.0.qkv": [0]}, inputs[:1])
    assert torch.equal(again(inputs), cut_channels(model, {"attentions.0.qkv": [0, 1, 3]}, inputs[:1])(inputs))


class Written(nn.Module):
    """Attention on tokens of 4 channels, as an author of a network may have written it."""

    def __init__(self, forward: Callable[[Written, Tensor], Tensor], keys: int = 8, **extra: object) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(4, 8), nn.Linear(4, keys), nn.Linear(4, keys), nn.Linear(8, 6)
        self.fc = nn.Linear(6, N_CLASSES)
        for name, value in extra.items():
            setattr(self, name, value)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.out(self._forward(self, x))).mean(1))


def in_heads(m: Written, x: Tensor, n_heads: int | None = None, n_keys: int | None = None) -> Tensor:
    n_heads = n_heads or m.num_heads
    split = ((m.q, n_heads), (m.k, n_keys or n_heads), (m.v, n_keys or n_heads))
    q, k, v = (layer(x).unflatten(-1, (n, -1)).transpose(1, 2) for layer, n in split)
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=n_keys is not None)
    return out.transpose(1, 2).flatten(2)


def normalised(m: Written, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (m.num_heads, -1)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    return F.scaled_dot_product_attention(m.norm(q), k, v).transpose(1, 2).flatten(2)


UNKNOWN = "attention takes its channels by heads, and the module that holds its layers for queries, keys and values"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Written(lambda m, x: in_heads(m, x, 4)), UNKNOWN),
        (Written(lambda m, x: in_heads(m, x, 4), num_heads=3), UNKNOWN),
        (Written(lambda m, x: in_heads(m, x, 4), num_heads=0), UNKNOWN),
        (Written(lambda m, x: in_heads(m, x, 4), num_heads="4"), UNKNOWN),
        (Written(lambda m, x: in_heads(m, x, 4, 2), keys=4, num_heads=4), UNKNOWN),
        (Written(normalised, num_heads=4, norm=nn.LayerNorm(2)), "norm: a LayerNorm normalises over the channels"),
    ],
    ids=["no_number", "no_divisor", "none", "text", "shared_keys", "normalised_queries"],
)
def test_attention_that_cannot_be_cut_by_heads_is_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    inputs, targets = tokens()
    group = sc.find_group(prepared(model), "q", inputs[:1])
    assert group.reason is not None
    assert reason in group.reason
    with pytest.raises(sc.GroupError, match=re.escape(f"group 'q' cannot be pruned exactly: {group.reason}")):
        sc.ChannelGame(model, "q", (inputs, targets))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Written(lambda m, x: in_heads(m, x, 4), num_heads=4),
            r"exactly: outputs of the pruned and of the masked network differ by .* mixes channels",
        ),
        (
            Written(lambda m, x: in_heads(m, x).reshape(x.shape[0], x.shape[1], 8), num_heads=4),
            ": cutting it gave RuntimeError: .*; the forward pass must take how many heads there are from num_heads",
        ),
    ],
    ids=["number", "width"],
)
def test_attention_with_sizes_that_do_not_follow_the_cut_is_refused_with_a_hint(model: nn.Module, message: str) -> None:
    inputs, targets = tokens()
    assert sc.find_group(prepared(model), "q", inputs[:1]).prunable  # only the trial cut finds out
    with pytest.raises(sc.GroupError, match=rf"^group 'q' cannot be pruned ?{message}$"):
        sc.ChannelGame(model, "q", (inputs, targets))


def test_attention_that_is_told_its_heads_can_be_pruned() -> None:
    model = prepared(Written(lambda m, x: in_heads(m, x)))
    model.num_heads = 4
    inputs, targets = tokens()
    game = sc.ChannelGame(model, "k", (inputs, targets))
    assert (game.group.name, game.n_players, game.path) == ("q", 4, "walk")
    plan = sc.plan_pruning(model, {"q": sc.rank(game, "exact")}, {"q": 1}, inputs)
    pruned = sc.prune(model, plan, inputs)
    assert (pruned.num_heads, model.num_heads) == (1, 4)


def test_plan_rounds_heads_to_a_multiple_of_their_channels(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    values = {HEADS[0]: torch.arange(4.0), NEURONS[0]: torch.arange(128.0)}

    def kept(multiple_of: int, **goal: float) -> list[int]:
        plan = sc.plan_pruning(trained, values, example_input=data[0][:1], multiple_of=multiple_of, **goal)
        return [len(plan.kept(name)) for name in values]

    assert kept(16, keep=0.25) == [1, 32]
    assert kept(32, keep=0.25) == [2, 32]
    assert kept(24, keep=0.25) == [3, 48]
    assert kept(128, keep=0.25) == [4, 128]
    heads, neurons = kept(32, macs=0.95)
    assert heads % 2 == neurons % 32 == 0


@pytest.mark.parametrize("family", ["vit", "fused_attention", "chunked_attention"])
def test_baselines_value_heads_by_all_that_makes_them(family: str) -> None:
    model, inputs, targets = build(family)
    group = next(g for g in sc.find_groups(model, inputs[:1]) if g.channels_per_player == 2)
    game = sc.ChannelGame(model, group, (inputs, targets))
    weights = torch.cat([model.get_submodule(layer).weight.detach() for layer in sorted(group.layers)])
    weights = weights.view(3, 4, -1).transpose(0, 1).flatten(1)  # all of a head: of queries, keys and values
    torch.testing.assert_close(sc.rank(game, "l1").values, weights.abs().sum(1).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(sc.rank(game, "l2").values, weights.norm(dim=1).double(), rtol=1e-6, atol=0)
    loss = F.cross_entropy(model(inputs), targets)
    parameters = [model.get_submodule(layer).weight for layer in sorted(group.layers)]
    products = torch.cat(
        [w.detach() * g for w, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]
    )
    expected = products.view(3, 4, -1).transpose(0, 1).flatten(1).abs().sum(1)
    torch.testing.assert_close(sc.rank(game, "taylor").values.float(), expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(sc.rank(game, "apoz").values, torch.ones(4, dtype=torch.float64))  # nothing is exactly zero
    assert sorted(sc.rank(game, "random").values.tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="bn_scale ranking needs a BatchNorm"):
        sc.rank(game, "bn_scale")


@pytest.mark.parametrize("method", ["permutation", "regression", "partial", "leave_one_out", "oracle", "least_squares"])
def test_every_ranker_ranks_heads(method: str, trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    game = sc.ChannelGame(trained, HEADS[2], data)
    options = {"budget": 800} if method in ("permutation", "regression", "least_squares") else {}
    estimate = sc.rank(game, method, **options)
    assert sorted(estimate.ranking().tolist()) == [0, 1, 2, 3]
    assert estimate.values.isfinite().all()


def test_prune_network_ranks_and_cuts_heads_in_rounds(trained: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    result = sc.prune_network(
        trained,
        lambda network, group, data: sc.rank(sc.ChannelGame(network, group, data), "magnitude"),
        [HEADS[0], NEURONS[0]],
        rank_on=data,
        select_on=data,
        keep=0.25,
        rounds=2,
    )
    assert [len(r.plan.kept(HEADS[0])) for r in result.rounds] == [2, 1]
    assert result.model.blocks[0].attention.num_heads == 1
    assert torch.equal(sc.prune(trained, result.plan, data[0])(data[0]), result.model(data[0]))


def test_example_prints_what_each_method_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("vit_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for method in ("magnitude (L1)", "Taylor"):
        del module.METHODS[method]  # two are enough, and faster
    accuracies = module.main(["--images", "4", "--budget", "1100", "--macs", "0.8"])
    unpruned, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert unpruned.startswith("Unpruned: 2,279,040 MACs, accuracy 88.")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [tuple(row[:2]) for row in cells] == list(accuracies)
    assert list(accuracies) == [(method, across) for method in module.METHODS for across in ("uniform", "global")]
    for method, across, heads, neurons, share, accuracy, n_rows in cells:
        assert len(heads.split()) == len(neurons.split()) == N_BLOCKS
        assert 70 <= int(share.rstrip("%")) <= 80
        assert accuracy == f"{accuracies[method, across]:.1%}"
        assert n_rows == ("0" if method == "random" else f"{4 * 220 * 5 + 4 * 8 * 129:,}")


def test_command_line_lists_ranks_and_prunes_heads(tmp_path: Path) -> None:
    listed = succeed("groups", "--model", "vit")
    assert "vit: 8 of 10 groups can be pruned" in listed.words
    assert "blocks.0.attention.q 4 heads blocks.0.attention.v" in listed.words
    records = json.loads(succeed("groups", "--model", "vit", "--json").printed)
    assert {r["name"]: r["channels_per_player"] for r in records}[HEADS[0]] == 16
    values, pruned = tmp_path / "values", tmp_path / "pruned"
    groups = [word for name in HEADS[:2] for word in ("--group", name)]
    succeed("rank", "--model", "vit", *groups, "--samples", "50", "--budget", "1000", "--out", values)
    succeed("prune", "--values", values, "--keep", f"{HEADS[0]}=3", "--keep", f"{HEADS[1]}=0.5", "--out", pruned)
    loaded = sc.load_pruned(sc.vit(), pruned)
    assert [block.attention.num_heads for block in loaded.blocks] == [3, 2, 4, 4]
