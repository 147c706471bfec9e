"""Networks as files for other runtimes: ONNX and torch.export. Each is checked by running it before it is written."""

from __future__ import annotations

import copy
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import write_whole
from .optional import needed

__all__ = ["ExportError", "ExportedFile", "export_onnx", "export_program"]

_CHECKED_SIZES = (1, 2, 5)  # of batches, where any size is wanted
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class ExportError(RuntimeError):
    """A network cannot be exported, or the file does not compute what the network does. Nothing has been written."""


@dataclass(frozen=True)
class ExportedFile:
    """A network in a file, and how far its outputs are from PyTorch's.

    Attributes:
        path: the file.
        size_bytes: its size.
        runtime: what ran it, with the version.
        batch_sizes: sizes of the batches that it ran on.
        deviation: largest absolute difference to PyTorch's outputs on them.
        largest_output: largest absolute value of PyTorch's outputs, to compare the deviation with.
        opset: version of ONNX's operators; None for a file of torch.export.
    """

    path: Path
    size_bytes: int
    runtime: str
    batch_sizes: tuple[int, ...]
    deviation: float
    largest_output: float
    opset: int | None = None

    def __str__(self) -> str:
        opset = "" if self.opset is None else f", opset {self.opset}"
        sizes = ", ".join(map(str, self.batch_sizes))
        return (
            f"{self.path}: {self.size_bytes / 1e6:.3g} MB{opset}; outputs in {self.runtime} differ from PyTorch's by "
            f"{self.deviation:.1e} at most, at batch {sizes} (largest output {self.largest_output:.3g})"
        )


def export_onnx(
    model: nn.Module,
    example_input: Tensor,
    path: str | Path,
    *,
    opset: int | None = None,
    dynamic_batch: bool = True,
    tolerance: float = 1e-4,
) -> ExportedFile:
    """Write a network as an ONNX file, for runtimes without PyTorch.

    The file has one input, ``input``, and one output, ``output``. Before it is written, onnxruntime runs it on the CPU.

    Args:
        model: the network, from one tensor to one tensor; unchanged. A copy is exported, on the CPU and in evaluation
            mode.
        example_input: a batch that the model accepts. The file is checked on its samples.
        path: where to write. The file appears whole or not at all; its folder is made.
        opset: version of ONNX's operators. Default: torch's own choice.
        dynamic_batch: the file takes batches of any size, and is checked on several; otherwise of the example's size.
        tolerance: how far outputs may be from PyTorch's: an absolute difference, or where outputs exceed 1 a share of
            the largest.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing: ``pip install '.[onnx]'``.
        ExportError: the network cannot be exported, or outputs differ by more; nothing has been written.
        TypeError: the model does not give one tensor.
        ValueError: an argument is out of range.

    Example:
        >>> print(sc.export_onnx(pruned, images[:8], "runs/pruned/model.onnx"))
    """
    _, _, runtime = (needed(package, "export_onnx", "onnx") for package in _PACKAGES)
    network = copy.deepcopy(model).cpu().eval()
    export = _Export("export_onnx", network, example_input.cpu(), dynamic_batch, tolerance)
    traced = export.trace()
    with export.failing("be written as ONNX"), _without_warnings():
        program = torch.onnx.export(
            traced,
            input_names=["input"],
            output_names=["output"],
            opset_version=opset,
            dynamic_shapes=export.batch_dimension("batch"),
            verbose=False,
        )
        assert program is not None  # TorchScript alone gives None
        for node in program.model.graph:
            node.metadata_props.clear()  # names of modules and classes, a tenth of the file
        content = program.model_proto.SerializeToString()
    found = program.model.opset_imports[""]
    if opset not in (None, found):
        raise ExportError(f"export_onnx: the network cannot be written in opset {opset}, only in {found}")
    with export.failing("be loaded by onnxruntime"):
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": batch.numpy()})[0])

    return export.write(path, content, run, f"onnxruntime {runtime.__version__}", found)


def export_program(
    model: nn.Module,
    example_input: Tensor,
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float = 1e-4,
) -> ExportedFile:
    """Write a network as a file of torch.export (``.pt2``), which runs without the network's own code.

    Before it is written it is loaded and run. ``torch.export.load(path).module()`` gives the network back. The file has
    no pickles in it; but ``torch.export.load`` would execute those of a file that has some, so that only files that you
    trust are to be loaded.

    Args:
        model: the network, from one tensor to one tensor; unchanged. A copy is exported, in evaluation mode, on the
            device where it is; the file is for that device.
        example_input: a batch that the model accepts, on the same device. The file is checked on its samples.
        path: where to write. The file appears whole or not at all; its folder is made.
        dynamic_batch: the file takes batches of any size, and is checked on several; otherwise of the example's size.
        tolerance: how far outputs may be from PyTorch's: an absolute difference, or where outputs exceed 1 a share of
            the largest.

    Raises:
        ExportError: the network cannot be exported, or outputs differ by more; nothing has been written.
        TypeError: the model does not give one tensor.
        ValueError: an argument is out of range.

    Example:
        >>> print(sc.export_program(pruned, images[:8], "runs/pruned/model.pt2"))
        >>> outputs = torch.export.load("runs/pruned/model.pt2").module()(images)
    """
    export = _Export("export_program", copy.deepcopy(model).eval(), example_input, dynamic_batch, tolerance)
    traced = export.trace()
    traced.example_inputs = None  # else the samples are in the file, in a pickle
    buffer = io.BytesIO()
    with export.failing("be written by torch.export"):
        torch.export.save(traced, buffer)
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return export.write(path, buffer.getvalue(), loaded, f"torch {torch.__version__}", None)


class _Export:
    """One export of a network.

    Args:
        caller: named in errors.
        network: a copy in evaluation mode.
        example: a batch.
        is_dynamic: batches may have any size.
        tolerance: how far outputs may be from the network's.
    """

    def __init__(self, caller: str, network: nn.Module, example: Tensor, is_dynamic: bool, tolerance: float):
        if example.dim() == 0 or len(example) == 0:
            raise ValueError(f"{caller}: example_input must be a batch of samples, got shape {list(example.shape)}")
        if not 0 < tolerance < math.inf:
            raise ValueError(f"{caller}: tolerance must be positive, got {tolerance}")
        self._caller, self._network, self._example = caller, network, example.detach()
        self._is_dynamic, self._tolerance = is_dynamic, tolerance
        with torch.no_grad():
            outputs = network(self._example)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"{caller}: model must return one tensor, got {type(outputs).__name__}")

    def batch_dimension(self, name: Any) -> tuple[dict[int, Any]] | None:
        """Which dimension of the input may have any size, as torch takes it; None where all are fixed."""
        return ({0: name},) if self._is_dynamic else None

    def trace(self) -> torch.export.ExportedProgram:
        """The network as a graph of operators."""
        example, what = self._example, "be traced"
        if self._is_dynamic:
            example = _resized(example, max(2, len(example)))  # from a batch of one, torch takes it to be always one
            what = "be traced for batches of any size (dynamic_batch=False fixes that to the example's)"
        with torch.no_grad(), self.failing(what):
            batch = torch.export.Dim("batch", min=1)
            traced = torch.export.export(self._network, (example,), dynamic_shapes=self.batch_dimension(batch))
        for node in traced.graph.nodes:
            node.meta.pop("stack_trace", None)  # where on whose disk the source is
        return traced

    def write(
        self, path: str | Path, content: bytes, run: Callable[[Tensor], Tensor], runtime: str, opset: int | None
    ) -> ExportedFile:
        """Run what was made of the network, and write it if it computes the same."""
        sizes = sorted({*_CHECKED_SIZES, len(self._example)}) if self._is_dynamic else [len(self._example)]
        deviation = largest = 0.0
        for size in sizes:
            batch = _resized(self._example, size)
            with torch.no_grad():
                expected = self._network(batch)
                with self.failing(f"be run by {runtime} at batch {size}"):
                    outputs = run(batch)
            if outputs.shape != expected.shape:
                raise ExportError(
                    f"{self._caller}: at batch {size} {runtime} must give outputs of shape {list(expected.shape)}, got "
                    f"{list(outputs.shape)}"
                )
            difference = (outputs.double() - expected.double()).abs().max()
            if not bool(difference.isfinite()):
                raise ExportError(f"{self._caller}: outputs must be finite to be compared, got others at batch {size}")
            deviation = max(deviation, float(difference))
            largest = max(largest, float(expected.abs().max()))
        if deviation > self._tolerance * max(1.0, largest):
            raise ExportError(
                f"{self._caller}: outputs in {runtime} differ from PyTorch's by {deviation:.1e}, the largest is "
                f"{largest:.3g}; tolerance is {self._tolerance:.1e}. Nothing was written"
            )
        write_whole(path, content)
        return ExportedFile(Path(path), len(content), runtime, tuple(sizes), deviation, largest, opset)

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Say what cannot be done; torch and the runtimes raise errors of many kinds."""
        try:
            yield
        except Exception as error:
            reason = str(error).strip().split("\n\n")[0]
            raise ExportError(f"{self._caller}: the network cannot {what}: {type(error).__name__}: {reason}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what only those who write exporters can act on: packages not installed, interfaces that will go."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _resized(example: Tensor, size: int) -> Tensor:
    """A batch of another size. Samples that come again are dimmer, so that mixing them up shows."""
    if size <= len(example):
        return example[:size]
    numbers = torch.arange(size, device=example.device)
    rows = example[numbers % len(example)]
    if not rows.is_floating_point():
        return rows
    dimmer = 1 - (numbers // len(example)) / size
    return rows * dimmer.to(rows.dtype).view(-1, *[1] * (rows.dim() - 1))
