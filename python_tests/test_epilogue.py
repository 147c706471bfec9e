"""What follows a consumer runs in its kernel where the kernel has it, and nowhere else; BatchNorms are folded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import N_CLASSES, prepared
from tolerances import PATHS_AGREE
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc
from shapley_cuda.epilogue import find_epilogue
from shapley_cuda.tracing import Traced

Follow = Callable[[Any, Tensor, Tensor], Tensor]  # (network, consumer's output y, a residual r) -> what is read next
Fused = tuple[bool, str, float, int]  # residual, activation, slope, pool
NOTHING: Fused = (False, "none", 0.01, 1)


class Followed(nn.Module):
    """A layer, its consumer, and whatever follows it."""

    def __init__(self, images: bool, follow: Follow, module: nn.Module | None) -> None:
        super().__init__()
        layer = (lambda i, o: nn.Conv2d(i, o, 3, padding=1)) if images else nn.Linear
        self.first, self.consumer, self.shortcut = layer(3, 8), layer(8, 6), layer(3, 6)
        self.act, self.last = module or nn.Identity(), nn.Linear(6, N_CLASSES)
        self.scale = nn.Parameter(torch.ones(1, 6, 7, 7) if images else torch.ones(1, 6))
        self.images, self.follow = images, follow

    def forward(self, x: Tensor) -> Tensor:
        y = self.follow(self, self.consumer(torch.tanh(self.first(x))), self.shortcut(x))
        return self.last(y.flatten(2).mean(2) if self.images else y)


def by_module(module: nn.Module) -> tuple[Follow, nn.Module]:
    return (lambda m, y, r: m.act(y)), module


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda layer, args, output: 2 * output)
    return module


FUSED: dict[str, tuple[Follow | tuple[Follow, nn.Module], Fused]] = {
    "nothing": (lambda m, y, r: 3 * y, NOTHING),
    "F.relu": (lambda m, y, r: F.relu(y), (False, "relu", 0.01, 1)),
    "F.relu in place": (lambda m, y, r: F.relu(y, inplace=True), (False, "relu", 0.01, 1)),
    "relu_ method": (lambda m, y, r: y.relu_(), (False, "relu", 0.01, 1)),
    "torch.relu": (lambda m, y, r: torch.relu(y), (False, "relu", 0.01, 1)),
    "F.relu6": (lambda m, y, r: F.relu6(y), (False, "relu6", 0.01, 1)),
    "F.leaky_relu": (lambda m, y, r: F.leaky_relu(y, 0.3), (False, "leaky_relu", 0.3, 1)),
    "F.silu": (lambda m, y, r: F.silu(y), (False, "silu", 0.01, 1)),
    "F.hardswish": (lambda m, y, r: F.hardswish(y), (False, "hardswish", 0.01, 1)),
    "F.gelu": (lambda m, y, r: F.gelu(y), (False, "gelu", 0.01, 1)),
    "sigmoid method": (lambda m, y, r: y.sigmoid(), (False, "sigmoid", 0.01, 1)),
    "torch.tanh": (lambda m, y, r: torch.tanh(y), (False, "tanh", 0.01, 1)),
    "nn.ReLU in place": (by_module(nn.ReLU(inplace=True)), (False, "relu", 0.01, 1)),
    "nn.ReLU6": (by_module(nn.ReLU6()), (False, "relu6", 0.01, 1)),
    "nn.LeakyReLU": (by_module(nn.LeakyReLU(0.2, inplace=True)), (False, "leaky_relu", 0.2, 1)),
    "nn.SiLU": (by_module(nn.SiLU()), (False, "silu", 0.01, 1)),
    "nn.Hardswish": (by_module(nn.Hardswish()), (False, "hardswish", 0.01, 1)),
    "nn.GELU": (by_module(nn.GELU()), (False, "gelu", 0.01, 1)),
    "nn.Sigmoid": (by_module(nn.Sigmoid()), (False, "sigmoid", 0.01, 1)),
    "nn.Tanh": (by_module(nn.Tanh()), (False, "tanh", 0.01, 1)),
    "residual": (lambda m, y, r: (y + r) * 2, (True, "none", 0.01, 1)),
    "residual and relu": (lambda m, y, r: F.relu(r + y), (True, "relu", 0.01, 1)),
    "residual in place and relu": (lambda m, y, r: F.relu(y.add_(r)), (True, "relu", 0.01, 1)),
    "into the residual": (lambda m, y, r: r.add_(y).relu(), (True, "relu", 0.01, 1)),
    "torch.add": (lambda m, y, r: torch.add(y, r).tanh(), (True, "tanh", 0.01, 1)),
    "residual after relu": (lambda m, y, r: F.relu(y) + r, (False, "relu", 0.01, 1)),
    "two residuals": (lambda m, y, r: (y + r + r.tanh()).relu(), (True, "none", 0.01, 1)),
    "two activations": (lambda m, y, r: y.relu().tanh(), (False, "relu", 0.01, 1)),
    "activation read twice": (lambda m, y, r: (z := y.tanh()) * z + z.relu(), (False, "tanh", 0.01, 1)),
    "output read twice": (lambda m, y, r: y.relu() + y.tanh(), NOTHING),
    "F.gelu by tanh": (lambda m, y, r: F.gelu(y, approximate="tanh"), NOTHING),
    "nn.GELU by tanh": (by_module(nn.GELU(approximate="tanh")), NOTHING),
    "activation with a hook": (by_module(hooked(nn.ReLU())), NOTHING),
    "other activation": (by_module(nn.ELU()), NOTHING),
    "add with alpha": (lambda m, y, r: torch.add(y, r, alpha=2).relu(), NOTHING),
    "residual of another shape": (lambda m, y, r: (y + r[:, :1]).relu(), NOTHING),
    "residual of no sample": (lambda m, y, r: (y + m.scale).relu(), NOTHING),
    "a number": (lambda m, y, r: (y + 1.5).relu(), NOTHING),
    "to itself": (lambda m, y, r: (y + y).relu(), NOTHING),
}
POOLED: dict[str, tuple[Follow | tuple[Follow, nn.Module], Fused]] = {
    "F.max_pool2d": (lambda m, y, r: F.max_pool2d(y, 2), (False, "none", 0.01, 2)),
    "nn.MaxPool2d": (by_module(nn.MaxPool2d((2, 2), 2)), (False, "none", 0.01, 2)),
    "relu and pool": (lambda m, y, r: F.max_pool2d(F.relu(y), 2, 2), (False, "relu", 0.01, 2)),
    "all": (lambda m, y, r: F.max_pool2d(F.silu(y + r), 2), (True, "silu", 0.01, 2)),
    "pool and tanh": (lambda m, y, r: F.max_pool2d(y, 2).tanh(), (False, "none", 0.01, 2)),
    "other kernel": (by_module(nn.MaxPool2d(3, 2)), NOTHING),
    "other stride": (lambda m, y, r: F.max_pool2d(y, 2, stride=1), NOTHING),
    "padding": (lambda m, y, r: F.max_pool2d(y, 2, padding=1), NOTHING),
    "dilation": (by_module(nn.MaxPool2d(2, dilation=2)), NOTHING),
    "ceil mode": (by_module(nn.MaxPool2d(2, ceil_mode=True)), NOTHING),
    "pool with a hook": (by_module(hooked(nn.MaxPool2d(2))), NOTHING),
    "mean": (lambda m, y, r: F.avg_pool2d(y, 2), NOTHING),
}
CASES = [
    *(pytest.param(images, *case, id=f"{'conv' if images else 'linear'}: {name}")
      for images in (True, False) for name, case in FUSED.items()),
    *(pytest.param(True, *case, id=f"conv: {name}") for name, case in POOLED.items()),
]  # fmt: skip


@pytest.mark.parametrize(("images", "follow", "fused"), CASES)
def test_epilogue_is_what_the_kernel_has_and_gives_the_same_values(
    images: bool, follow: Follow | tuple[Follow, nn.Module], fused: Fused, device: str
) -> None:
    function, module = follow if isinstance(follow, tuple) else (follow, None)
    model = prepared(Followed(images, function, copy.deepcopy(module))).to(device)
    shape = (4, 3, 7, 7) if images else (4, 3)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(device)

    traced = Traced(model, inputs)
    found = find_epilogue(traced, traced.calls(["consumer"])[0])
    assert (found.residual is not None, found.activation, found.negative_slope, found.pool) == fused

    data = (inputs, torch.arange(4, device=device))
    walk, hook = (sc.ChannelGame(model, "first", data, path=path) for path in ("walk", "hook"))
    permutations, samples = sc.WalkSampler(8, 4).walks(0, 8, device)
    expected = hook.walk_values(permutations, samples)
    relative, absolute = PATHS_AGREE
    torch.testing.assert_close(walk.walk_values(permutations, samples), expected, rtol=relative, atol=absolute)
    assert expected.std() > 1e-3  # else agreement would mean nothing


def test_epilogue_of_a_linear_layer_on_positions_has_no_pool() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.MaxPool2d(2)).eval()
    traced = Traced(model, torch.randn(2, 4, 4, 8))
    found = find_epilogue(traced, traced.calls(["0"])[0])
    assert (found.activation, found.pool) == ("relu", 1)


def test_walk_path_linear_head_has_no_epilogue_and_an_activated_one_is_no_head() -> None:
    inputs, targets = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    plain = prepared(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, N_CLASSES)))
    activated = prepared(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, N_CLASSES), nn.ReLU()))
    heads = [sc.ChannelGame(m, "0", (inputs, targets), path="walk")._paths.head for m in (plain, activated)]
    assert heads[0] is not None
    assert heads[1] is None


class Normed(nn.Module):
    """Two layers of one shape, a BatchNorm, and whatever forward does with them."""

    def __init__(self, images: bool, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        layer = (lambda: nn.Conv2d(4, 4, 3, padding=1)) if images else (lambda: nn.Linear(4, 4))
        self.a, self.b, self.norm = layer(), layer(), (nn.BatchNorm2d if images else nn.BatchNorm1d)(4)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


FOLDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str | None, int]] = {  # forward, hooked layer, norms that stay
    "after a layer": (lambda m, x: m.b(m.norm(m.a(x)).relu()), None, 0),
    "layer read twice": (lambda m, x: m.norm(y := m.a(x)) + y, None, 1),
    "layer called twice": (lambda m, x: m.norm(m.a(m.a(x))), None, 1),
    "norm called twice": (lambda m, x: m.norm(m.a(x)) + m.norm(m.b(x)), None, 2),
    "after an activation": (lambda m, x: m.norm(m.a(x).relu()), None, 1),
    "before a layer": (lambda m, x: m.a(m.norm(x)), None, 1),
    "layer with a hook": (lambda m, x: m.norm(m.a(x)), "a", 1),
    "norm with a hook": (lambda m, x: m.norm(m.a(x)), "norm", 1),
}


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("name", FOLDS)
def test_traced_folds_batchnorms_where_it_may_and_leaves_the_model_unchanged(name: str, images: bool) -> None:
    forward, with_hook, n_left = FOLDS[name]
    model = prepared(Normed(images, forward))
    if with_hook:
        hooked(model.get_submodule(with_hook))
    inputs = torch.randn((3, 4, 5, 5) if images else (3, 4), generator=torch.Generator().manual_seed(3))
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    expected = model(inputs)

    traced = Traced(model, inputs)
    called = [type(traced.module.get_submodule(n.target)) for n in traced.graph.nodes if n.op == "call_module"]
    assert sum(kind in (nn.BatchNorm1d, nn.BatchNorm2d) for kind in called) == n_left
    if with_hook is None:  # a trace keeps no hooks of what it runs as it is
        torch.testing.assert_close(traced.module(inputs), expected, rtol=1e-5, atol=1e-5)

    after = dict(model.named_modules())
    assert list(after) == list(modules)
    assert all(after[key] is modules[key] for key in modules)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(inputs), expected)
