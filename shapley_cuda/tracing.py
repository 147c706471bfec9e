"""A network as a graph of ``torch.fx``, its BatchNorms folded, knowing which values have one entry per sample."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .masking import PathError

__all__ = ["Traced"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_IN_PLACE_OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.setitem}
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Traced:
    """A network in evaluation mode as a graph. The network itself is not changed.

    Attributes:
        module: the graph and the layers that it calls. A BatchNorm that alone reads a convolution's or linear layer's
            output is folded into a copy of that layer, under the layer's name.
        shapes: shape of every value that is a tensor, on a batch of two samples.
        per_sample: values that are tensors with one entry per sample along dimension 0.

    Raises:
        PathError: ``torch.fx`` cannot trace the network, it does not take one tensor, or it changes values in place
            that are read elsewhere too.
    """

    def __init__(self, model: nn.Module, inputs: Tensor):
        self.module = _trace(model)
        _check_writes(self.module)
        _fold_batchnorms(self.module)
        self.shapes, self.per_sample = _record_shapes(self.module, inputs)

    @property
    def graph(self) -> fx.Graph:
        """The graph of the module."""
        return self.module.graph

    def calls(self, layers: Iterable[str]) -> list[fx.Node]:
        """The calls of some layers, in the graph's order; every layer must be called, on one entry per sample."""
        wanted = set(layers)
        found = [n for n in self.graph.nodes if n.op == "call_module" and n.target in wanted]
        missing = wanted - {str(n.target) for n in found}
        if missing:
            raise PathError(f"consumers {sorted(missing)} do not appear as module calls in the traced network")
        for call in found:
            if call.all_input_nodes[0] not in self.per_sample:
                raise PathError(f"the input of {call.target} has not one entry per sample along its first dimension")
        return found


class _Tracer(fx.Tracer):
    """Keeps convolutions and linear layers whole, subclasses of them included: a consumer has to appear as a call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        readers = (nn.Linear, nn.modules.conv._ConvNd)
        return isinstance(m, readers) or super().is_leaf_module(m, module_qualified_name)


def _trace(model: nn.Module) -> fx.GraphModule:
    if model._forward_hooks or model._forward_pre_hooks:
        raise PathError("the network has hooks of its own, which torch.fx would not see")
    try:
        tracer = _Tracer()
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # whatever the model's Python does under tracing
        raise PathError(f"torch.fx cannot trace the network: {type(error).__name__}: {error}") from error
    placeholders = [n for n in traced.graph.nodes if n.op == "placeholder"]
    if not placeholders or any(not n.args for n in placeholders[1:]):
        raise PathError(f"the network takes {len(placeholders)} inputs; rows of one tensor are supported")
    for argument in placeholders[1:]:
        _insert_default(traced.graph, argument)
    traced.recompile()
    return traced


def _insert_default(graph: fx.Graph, argument: fx.Node) -> None:
    """Put the default of a further argument wherever it is read."""
    (default,) = argument.args

    def filled(node: fx.Node) -> Any:
        return default if node is argument else node

    for user in list(argument.users):
        user.args, user.kwargs = fx.map_arg(user.args, filled), fx.map_arg(user.kwargs, filled)
    graph.erase_node(argument)


def _check_writes(traced: fx.GraphModule) -> None:
    """Refuse a value that is changed in place and read again: cut out of the network, the readings change order."""
    for node in traced.graph.nodes:
        changed = _changed_in_place(traced, node)
        if changed is not None and (len(changed.users) > 1 or changed.op == "placeholder"):
            raise PathError(f"{node.name} changes {changed.name} in place, which is read elsewhere too")


def _changed_in_place(traced: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    if node.op == "call_module":
        writes = getattr(traced.get_submodule(str(node.target)), "inplace", False) is True
    elif node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        in_place_name = name.endswith("_") and not name.endswith("__")
        writes = in_place_name or node.kwargs.get("inplace", False) is True or node.target in _IN_PLACE_OPERATORS
    else:
        writes = False
    first = node.args[0] if node.args else None
    return first if writes and isinstance(first, fx.Node) else None


def _fold_batchnorms(traced: fx.GraphModule) -> None:
    """Fold each BatchNorm into the layer before it, where it is the only one to read that layer's output and both are
    called once. Containers are the graph module's own, so that the network keeps its layers."""
    called = [n.target for n in traced.graph.nodes if n.op == "call_module"]
    for norm_call in list(traced.graph.nodes):
        if norm_call.op != "call_module" or len(norm_call.args) != 1:
            continue
        norm, layer_call = traced.get_submodule(str(norm_call.target)), norm_call.args[0]
        if not isinstance(norm, _BATCHNORMS) or type(norm) not in _BATCHNORMS:
            continue
        if norm.running_mean is None or called.count(norm_call.target) > 1:
            continue
        if not isinstance(layer_call, fx.Node) or layer_call.op != "call_module" or len(layer_call.users) > 1:
            continue
        layer = traced.get_submodule(str(layer_call.target))
        if called.count(layer_call.target) > 1 or _has_hooks(layer) or _has_hooks(norm):
            continue
        folded: nn.Module
        if type(layer) in _CONVOLUTIONS:
            folded = fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var]
        elif type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d:
            folded = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        traced.set_submodule(str(layer_call.target), folded)
        norm_call.replace_all_uses_with(layer_call)
        traced.graph.erase_node(norm_call)
    traced.recompile()


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps, for every node, its shape if it is a tensor."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = result.shape
        return result


def _record_shapes(traced: fx.GraphModule, inputs: Tensor) -> tuple[dict[fx.Node, torch.Size], set[fx.Node]]:
    """Shapes on two samples, and the nodes whose first size follows the number of samples."""
    by_size = []
    for size in (2, 3):
        recorder = _Recorder(traced)
        recorder.run(inputs[torch.arange(size, device=inputs.device) % inputs.shape[0]])
        by_size.append(recorder.shapes)
    two, three = by_size
    return two, {n for n, shape in two.items() if len(shape) > 0 and shape[0] == 2 and three[n][:1] == (3,)}
