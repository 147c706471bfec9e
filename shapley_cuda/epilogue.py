"""What directly follows a layer and can run in its kernel: a residual, an activation, a 2 x 2 max-pool of images."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from .tracing import Traced

__all__ = ["Epilogue", "find_epilogue"]

_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
}
_ACTIVATION_FUNCTIONS: dict[Any, str] = {
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu: "relu",
    F.relu_: "relu",
    F.relu6: "relu6",
    F.leaky_relu: "leaky_relu",
    F.silu: "silu",
    F.hardswish: "hardswish",
    F.gelu: "gelu",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    "relu": "relu",
    "relu_": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass
class Epilogue:
    """What the kernel does after the layer, in this order.

    Attributes:
        last: the last value that the kernel computes; the layer's own result where nothing can be fused.
        residual: a value with one entry per sample that is added first, or None.
        activation: as ``ops.permutation_conv2d`` and ``ops.permutation_linear`` name it.
        negative_slope: of a leaky ReLU.
        pool: 2 for the greatest of every 2 x 2, else 1; always 1 after a linear layer.
    """

    last: fx.Node
    residual: fx.Node | None = None
    activation: str = "none"
    negative_slope: float = 0.01
    pool: int = 1


def find_epilogue(traced: Traced, call: fx.Node) -> Epilogue:
    """Follow the result of an nn.Conv2d or nn.Linear as long as one operation alone reads it and the kernel has it."""
    found, gives_images = Epilogue(call), isinstance(traced.module.get_submodule(str(call.target)), nn.Conv2d)
    while len(found.last.users) == 1:
        (node,) = found.last.users
        residual, activation = _residual(traced, node, found.last), _activation(traced, node)
        if residual is not None and found.residual is None and found.activation == "none":
            found.residual = residual
        elif activation is not None and found.activation == "none":
            found.activation, found.negative_slope = activation
        elif gives_images and _is_max_pool(traced, node):
            found.pool, found.last = 2, node
            break
        else:
            break
        found.last = node
    return found


def _residual(traced: Traced, node: fx.Node, value: fx.Node) -> fx.Node | None:
    if node.op not in ("call_function", "call_method") or node.target not in _ADDITIONS or node.kwargs:
        return None
    others = [a for a in node.args if a is not value]
    if len(node.args) != 2 or len(others) != 1 or not isinstance(others[0], fx.Node):
        return None
    other = others[0]
    same_shape = traced.shapes.get(other) == traced.shapes.get(value)
    return other if same_shape and other in traced.per_sample else None


def _activation(traced: Traced, node: fx.Node) -> tuple[str, float] | None:
    if node.op == "call_module":
        module = traced.module.get_submodule(str(node.target))
        name = _ACTIVATION_MODULES.get(type(module))
        if name is None or module._forward_hooks or module._forward_pre_hooks:
            return None
        if isinstance(module, nn.GELU) and module.approximate != "none":
            return None
        return name, module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.01
    if node.op not in ("call_function", "call_method") or node.target not in _ACTIVATION_FUNCTIONS:
        return None
    settings = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    slope = settings.pop("negative_slope", 0.01)
    if len(node.args) != 1 or settings.pop("approximate", "none") != "none" or settings:
        return None
    return (_ACTIVATION_FUNCTIONS[node.target], slope) if isinstance(slope, float) else None


def _is_max_pool(traced: Traced, node: fx.Node) -> bool:
    """Whether it is a max-pool over 2 x 2 windows side by side."""
    if node.op == "call_module":
        module = traced.module.get_submodule(str(node.target))
        if type(module) is not nn.MaxPool2d or module._forward_hooks or module._forward_pre_hooks:
            return False
        settings = dict(vars(module))
    elif node.op == "call_function" and node.target is F.max_pool2d:
        names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        settings = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    else:
        return False
    if settings.get("stride") is None:
        settings["stride"] = settings.get("kernel_size")
    wanted = {"kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1}
    defaults = {"padding": 0, "dilation": 1}
    if any(settings.get(name, defaults.get(name)) not in (v, (v, v), [v, v]) for name, v in wanted.items()):
        return False
    return not settings.get("ceil_mode") and not settings.get("return_indices")
