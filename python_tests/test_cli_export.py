"""``shapley-cuda export``: from a folder that prune wrote to a file for another runtime."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from cli_run import OWN, refuse, succeed
from own_network import Net

import shapley_cuda as sc

MISSING = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
PROGRAM = ("--format", "torch_export")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    succeed("prune", *OWN, "--method", "l1", "--keep", "0.5", "--out", folder)
    return folder


def images() -> torch.Tensor:
    return torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def test_export_writes_the_pruned_network_of_a_run(run_folder: Path, tmp_path: Path) -> None:
    run = succeed("export", run_folder, *PROGRAM, "--out", tmp_path / "net.pt2")
    pruned, run_it = sc.load_pruned(Net(), run_folder), torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        for size in (1, 9):
            torch.testing.assert_close(run_it(images()[:size]), pruned(images()[:size]), rtol=0, atol=1e-6)
    assert f"{tmp_path / 'net.pt2'}: 0.0" in run.words
    assert f"outputs in torch {torch.__version__} differ from PyTorch's by " in run.words
    assert "at batch 1, 2, 5, 8 (largest output " in run.words


@needs_onnx
def test_export_writes_onnx_into_the_folder_by_default(run_folder: Path) -> None:
    import onnxruntime

    run = succeed("export", run_folder, "--opset", "18")
    session = onnxruntime.InferenceSession(run_folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = sc.load_pruned(Net(), run_folder)(images())
    outputs = torch.from_numpy(session.run(["output"], {"input": images().numpy()})[0])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)
    assert f"{run_folder / 'model.onnx'}: 0.0" in run.words
    assert "opset 18; outputs in onnxruntime" in run.words


def test_export_of_a_batch_takes_no_other(run_folder: Path, tmp_path: Path) -> None:
    run = succeed("export", run_folder, *PROGRAM, "--batch", "3", "--out", tmp_path / "net.pt2")
    assert "at batch 3 (largest" in run.words
    run_it = torch.export.load(tmp_path / "net.pt2").module()
    assert run_it(images()[:3]).shape == (3, 3)
    with pytest.raises(Exception, match="to be equal to 3, but got 4"):
        run_it(images()[:4])


def test_export_of_a_network_pruned_twice_starts_from_the_first(run_folder: Path, tmp_path: Path) -> None:
    again = ("prune", *OWN, "--checkpoint", run_folder, "--method", "l1", "--keep", "conv2=2", "--out", tmp_path)
    succeed(*again)
    succeed("export", tmp_path, *PROGRAM)
    run_it = torch.export.load(tmp_path / "model.pt2").module()
    pruned = sc.load_pruned(sc.load_pruned(Net(), run_folder), tmp_path)
    assert pruned.conv2.weight.shape[:2] == (2, 2)
    with torch.no_grad():
        torch.testing.assert_close(run_it(images()), pruned(images()), rtol=0, atol=1e-6)


def test_export_of_a_network_saved_in_python_needs_its_name(run_folder: Path, tmp_path: Path) -> None:
    plan = sc.PruningPlan.from_json((run_folder / "plan.json").read_text())
    sc.save_pruned(sc.load_pruned(Net(), run_folder), plan, tmp_path)
    refuse("--model: must be given where the folder has no results.json of prune", "export", tmp_path, *PROGRAM)
    succeed("export", tmp_path, *PROGRAM, "--model", "own_network:Net")
    assert (tmp_path / "model.pt2").is_file()


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["--opset", "18"], "--opset: is of ONNX alone", 2),
        (["--model", "own_network:Mixing"], "FOLDER: ", 2),
        (["--model", "lenet"], "--model: must be one of lenet5, ", 2),
        (["--batch", "0"], "--batch", 2),
        (["--tolerance", "0"], "Error: export_program: tolerance must be positive, got 0.0", 1),
    ],
)
def test_export_bad_option_is_refused(
    arguments: list[str], text: str, code: int, run_folder: Path, tmp_path: Path
) -> None:
    refuse(text, "export", run_folder, *PROGRAM, *arguments, "--out", tmp_path / "net.pt2", code=code)
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    refuse(f"FOLDER: {tmp_path} must be a folder that prune wrote, got none with a plan.json", "export", tmp_path)


@pytest.mark.parametrize(
    "results", ["{", "[]", pytest.param("[" * 100_000, id="nested"), '{"named": 3}', '{"named": {"model": "lenet5"}}']
)
def test_export_refuses_a_damaged_record(results: str, run_folder: Path, tmp_path: Path) -> None:
    for name in ("plan.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())
    (tmp_path / "results.json").write_text(results)
    refuse(f"FOLDER: {tmp_path / 'results.json'} cannot be read: ", "export", tmp_path, *PROGRAM)
    record = json.loads((run_folder / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(record | {"more": 1}))
    succeed("export", tmp_path, *PROGRAM)
