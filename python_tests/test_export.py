"""Pruned networks in other runtimes compute what they compute in PyTorch, for batches of any size."""

from __future__ import annotations

import copy
import io
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import FAMILIES, build, prepared
from torch import Tensor, nn
from torch.nn import functional as F

import shapley_cuda as sc

ROOT = Path(__file__).parent.parent
CLOSE = 1e-4  # largest absolute difference of outputs
MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
both = pytest.mark.parametrize("export", [pytest.param(sc.export_onnx, marks=needs_onnx), sc.export_program])
Export = Callable[..., sc.ExportedFile]
Runtime = Callable[[Tensor], Tensor]


def pruned_by_chance(model: nn.Module, inputs: Tensor, keep: Any) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    groups = [group for group in sc.find_groups(model, inputs[:1]) if group.prunable]
    if isinstance(keep, dict):
        groups = [group for group in groups if group.name in keep]
    values = {group.name: torch.rand(group.n_players, generator=generator) for group in groups}
    return sc.prune(model, sc.plan_pruning(model, values, keep, inputs), inputs)


@cache
def resnet56_of_the_paper() -> tuple[nn.Module, Tensor]:
    """ResNet-56 of the paper's widths, whose activations have the size that they have in trained networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = sc.resnet56().eval()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    pruned = pruned_by_chance(model, images, sc.preset("resnet56"))
    sc.recalibrate_batchnorm(pruned, images)
    return pruned, images


def lenet5() -> tuple[nn.Module, Tensor]:
    images = sc.fashion_mnist_subset("test").images[:16]
    return pruned_by_chance(sc.pretrained("lenet5"), images, 0.3), images


def small() -> tuple[nn.Module, Tensor]:
    model, inputs, _ = build("vgg")
    return model, inputs


def runtime_of(path: Path) -> Runtime:
    """What runs a file, from nothing but the file."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(["output"], {"input": batch.numpy()})[0])


def file_of(export: Export, folder: Path) -> Path:
    return folder / ("model.onnx" if export is sc.export_onnx else "model.pt2")


def assert_computes_the_same(path: Path, model: nn.Module, inputs: Tensor, sizes: tuple[int, ...]) -> None:
    run = runtime_of(path)
    for size in sizes:
        with torch.no_grad():
            expected, outputs = model(inputs[:size]), run(inputs[:size])
        assert outputs.shape == expected.shape == (size, *expected.shape[1:])
        assert float(expected.abs().max()) > 0.1
        assert float((outputs - expected).abs().max()) <= CLOSE


@both
@pytest.mark.parametrize("network", [lenet5, resnet56_of_the_paper], ids=["lenet5", "resnet56"])
def test_export_of_a_papers_network_is_equal_at_every_batch_size(
    network: Callable[[], tuple[nn.Module, Tensor]], export: Export, tmp_path: Path
) -> None:
    model, inputs = network()
    path = file_of(export, tmp_path)
    written = export(model, inputs[:3], path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert written.path == path
    assert written.size_bytes == path.stat().st_size
    assert written.batch_sizes == (1, 2, 3, 5)
    assert written.deviation <= CLOSE
    assert_computes_the_same(path, model, inputs, (1, 2, 7, 16))


def test_resnet56_of_the_paper_has_its_widths() -> None:
    model, _ = resnet56_of_the_paper()
    assert sc.count_parameters(model) == 425_824
    assert {model.get_submodule(name).out_channels for name in sc.preset("resnet56")} == {11, 18, 30}


@both
@pytest.mark.parametrize("family", FAMILIES)
def test_export_of_a_pruned_family_is_equal(family: str, export: Export, tmp_path: Path) -> None:
    model, inputs, _ = build(family)
    pruned = pruned_by_chance(model, inputs, 0.5)
    written = export(pruned, inputs[:2], file_of(export, tmp_path))
    assert written.batch_sizes == (1, 2, 5)
    scale = max(1.0, written.largest_output)
    run = runtime_of(written.path)
    with torch.no_grad():
        torch.testing.assert_close(run(inputs), pruned(inputs), rtol=0, atol=CLOSE * scale)


@both
def test_export_of_a_fixed_batch_takes_no_other(export: Export, tmp_path: Path) -> None:
    model, inputs = small()
    written = export(model, inputs[:3], file_of(export, tmp_path), dynamic_batch=False)
    assert written.batch_sizes == (3,)
    assert_computes_the_same(written.path, model, inputs, (3,))
    run = runtime_of(written.path)
    with pytest.raises(Exception, match=r"(?i)expected|dimension"):
        run(inputs[:4])


@both
def test_export_changes_neither_the_network_nor_the_random_state(export: Export, tmp_path: Path) -> None:
    model, inputs = small()
    model.train()
    model[1].eval()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    export(model, inputs[:2], file_of(export, tmp_path))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model[1].training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_computes_the_same(file_of(export, tmp_path), model.eval(), inputs, (2,))


@both
def test_export_replaces_a_file_and_makes_folders(export: Export, tmp_path: Path) -> None:
    model, inputs = small()
    path = file_of(export, tmp_path / "a" / "b")
    export(model, inputs[:2], path)
    with torch.no_grad():
        model[0].weight.mul_(2)
    export(model, inputs[:2], path)
    assert_computes_the_same(path, model, inputs, (2,))


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class FourAlways(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, -1) * 2


class DataDecides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x - x)


class Random(nn.Module):
    """Its outputs are others each time, so that no file can have them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x + 1, 0.5, training=True)


@pytest.fixture
def random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@both
@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        (TwoOutputs(), TypeError, "model must return one tensor, got tuple"),
        (FourAlways(), sc.ExportError, "the network cannot be traced for batches of any size (dynamic_batch=False "
         "fixes that to the example's): "),
        (DataDecides(), sc.ExportError, "the network cannot be traced"),
        (Infinite(), sc.ExportError, "outputs must be finite to be compared, got others at batch 1"),
        (Random(), sc.ExportError, "differ from PyTorch's by "),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("random_state")
def test_export_of_what_cannot_be_exported_is_refused_and_leaves_nothing(
    model: nn.Module, kind: type[Exception], text: str, export: Export, tmp_path: Path
) -> None:
    path = file_of(export, tmp_path)
    with pytest.raises(kind) as caught:
        export(model, torch.ones(4, 6), path)
    assert str(caught.value).startswith(f"{export.__name__}: ")
    assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


@both
def test_export_of_a_network_for_one_size_goes_with_a_fixed_batch(export: Export, tmp_path: Path) -> None:
    path = file_of(export, tmp_path)
    assert export(FourAlways(), torch.ones(4, 6), path, dynamic_batch=False).batch_sizes == (4,)
    assert path.exists()


@both
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"example_input": torch.tensor(1.0)}, "example_input must be a batch of samples, got shape []"),
        ({"example_input": torch.zeros(0, 3, 12, 12)}, "example_input must be a batch of samples, got shape [0, 3, "),
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"tolerance": float("nan")}, "tolerance must be positive, got nan"),
    ],
)  # fmt: skip
def test_export_argument_out_of_range_is_refused(
    arguments: dict[str, Any], text: str, export: Export, tmp_path: Path
) -> None:
    model, inputs = small()
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is compared below
        export(model, path=file_of(export, tmp_path), **{"example_input": inputs[:2], **arguments})
    assert str(caught.value).startswith(f"{export.__name__}: {text}")


@needs_onnx
def test_onnx_deviation_above_the_tolerance_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    model, inputs = lenet5()
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    text = (
        r"^export_onnx: outputs in onnxruntime \S+ differ from PyTorch's by \S+e-0\d, the largest is \S+; tolerance is "
    )
    with pytest.raises(sc.ExportError, match=text):
        sc.export_onnx(model, inputs[:2], path, tolerance=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"older"


@needs_onnx
def test_onnx_file_has_named_ends_and_the_opset_that_was_asked_for(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model, inputs = small()
    written = sc.export_onnx(model, inputs[:1], tmp_path / "model.onnx", opset=18)
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    (entry,), (end,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape) == ("input", ["batch", 3, 12, 12])
    assert (end.name, end.shape[0]) == ("output", "batch")
    proto = onnx.load(written.path)
    onnx.checker.check_model(proto, full_check=True)
    assert written.opset == 18 == next(o.version for o in proto.opset_import if o.domain == "")
    assert str(written).startswith(f"{tmp_path / 'model.onnx'}: 0.0")
    assert ", opset 18; outputs in onnxruntime " in str(written)
    with pytest.raises(sc.ExportError, match=r"^export_onnx: the network cannot be written in opset 7, only in 18$"):
        sc.export_onnx(model, inputs[:1], tmp_path / "old.onnx", opset=7)
    assert not (tmp_path / "old.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_onnx_without_its_packages_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package != "onnx" and MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    monkeypatch.setitem(sys.modules, package, None)
    model, inputs = small()
    text = rf"^export_onnx needs {package}, which cannot be imported .* pip install '\.\[onnx\]'$"
    with pytest.raises(ImportError, match=text):
        sc.export_onnx(model, inputs, tmp_path / "model.onnx")


def test_program_has_neither_pickles_nor_samples_nor_paths_in_it(tmp_path: Path) -> None:
    model, inputs = small()
    sc.export_program(model, inputs[:2], tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert contents.pop(next(name for name in contents if "sample_inputs" in name)) == b""
    for name, content in contents.items():
        assert not zipfile.is_zipfile(io.BytesIO(content)), name  # torch.save makes such
        assert str(ROOT).encode() not in content, name
    weight = next(content for name, content in contents.items() if name.endswith("weight_0"))
    assert weight == model[0].weight.detach().numpy().tobytes()


@needs_onnx
def test_onnx_file_has_no_paths_in_it(tmp_path: Path) -> None:
    model, inputs = small()
    sc.export_onnx(model, inputs[:2], tmp_path / "model.onnx")
    assert str(ROOT).encode() not in (tmp_path / "model.onnx").read_bytes()


def compiled_outputs(model: nn.Module, inputs: Tensor, **how: Any) -> list[Tensor]:
    try:
        compiled = torch.compile(model, fullgraph=True, **how)
        with torch.no_grad():
            return [compiled(inputs[:size]) for size in (4, 7)]
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("network", [lenet5, resnet56_of_the_paper], ids=["lenet5", "resnet56"])
def test_pruned_network_is_one_graph_for_torch_compile(network: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, inputs = network()
    with torch.no_grad():
        expected = [model(inputs[:size]) for size in (4, 7)]
    for outputs, wanted in zip(compiled_outputs(model, inputs, backend="eager"), expected, strict=True):
        torch.testing.assert_close(outputs, wanted, rtol=0, atol=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_pruned_network_gives_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    monkeypatch.setattr("torch._inductor.config.cpp.vec_isa_ok", True)  # trying it out takes ten seconds
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    inputs = torch.randn(7, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    pruned = pruned_by_chance(prepared(nn.Sequential(*layers)), inputs, 0.6)
    with torch.no_grad():
        expected = [pruned(inputs[:size]) for size in (4, 7)]
    for outputs, wanted in zip(compiled_outputs(pruned, inputs, dynamic=True), expected, strict=True):
        torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-5)
    assert list(tmp_path.rglob("*.cpp"))
