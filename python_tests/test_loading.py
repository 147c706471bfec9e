"""Networks, checkpoints and data sets by the names that users give them."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import own_network
import pytest
import torch
from cifar_files import write_cifar
from own_network import Net
from safetensors.torch import save_file

import shapley_cuda as sc
from shapley_cuda.loading import draw_samples, fingerprint, import_named, load_checkpoint, load_model, open_data


class Evil:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return fingerprint(a) == fingerprint(b)


def other_weights() -> Net:
    net = Net()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) % 7)
    return net


def test_import_finds_modules_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_me").mkdir()
    (tmp_path / "beside_me" / "things.py").write_text("class Box:\n    content = 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert import_named("beside_me.things:Box.content") == 5


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("own_network", ValueError, "must be of the form package.module:name, got 'own_network'"),
        ("own network:Net", ValueError, "must be of the form package.module:name, got 'own network:Net'"),
        ("nets/own.py:Net", ValueError, "must name a module, not a file: nets.own:Net, got 'nets/own.py:Net'"),
        ("own_network:Nett", ValueError, "module own_network has no 'Nett'; did you mean 'Net'?"),
        ("own_netwrk:Net", ModuleNotFoundError, "there is no module 'own_netwrk', in "),
    ],
)
def test_import_refuses_names_that_name_nothing(name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        import_named(name)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import no_such_package", "importing {} gave ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0", "importing {} gave ZeroDivisionError: division by zero"),
    ],
)
def test_import_tells_what_a_module_raises(
    source: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"faulty_{len(source)}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=f"^{re.escape(text.format(name))}$"):
        import_named(f"{name}:thing")


def test_model_of_a_factory_has_the_same_random_weights_each_time_and_leaves_the_random_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Importing it draws random numbers, too, but only once.
    (tmp_path / "drawing.py").write_text("from own_network import Net\nfirst = Net()\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.get_rng_state()
    first, second = load_model("drawing:Net"), load_model("drawing:Net")
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(first, second)
    assert not first.training


def test_model_that_ships_has_its_weights() -> None:
    assert same_weights(load_model("lenet5_bn"), sc.pretrained("lenet5_bn"))


def test_model_may_be_a_module_instead_of_a_factory() -> None:
    assert load_model("own_network:trained") is own_network.trained


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("lenet6", ValueError, "torchvision:NAME or package.module:factory, got 'lenet6'; did you mean 'lenet5'?"),
        ("resnet56", ValueError, "resnet56 comes without weights (lenet5, lenet5_bn, vgg_bn, vit have some)"),
        ("own_network:number", TypeError, "must be a function or class that gives a network, got int"),
        ("own_network:nothing", TypeError, "own_network:nothing() must give an nn.Module, got NoneType"),
        ("own_network:failing", ImportError, "calling own_network:failing() gave RuntimeError: out of luck"),
    ],
)
def test_model_refuses(name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        load_model(name)


def test_model_without_weights_is_built_where_none_are_needed() -> None:
    assert sc.count_parameters(load_model("resnet56", trained=False)) == 853_018


def test_checkpoint_forms_all_give_the_weights(tmp_path: Path) -> None:
    net = other_weights()
    state = net.state_dict()
    wrapped = {f"module.{key}": value for key, value in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "c.pth")
    torch.save({"model": {f"_orig_mod.{key}": value for key, value in state.items()}}, tmp_path / "d.pt")
    counted = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(counted, tmp_path / "e.safetensors")
    for name in ("a.safetensors", "b.pt", "c.pth", "d.pt"):
        assert same_weights(load_checkpoint(Net(), tmp_path / name), net), name
    loaded = load_checkpoint(Net(), tmp_path / "e.safetensors")
    assert torch.equal(loaded.conv1.weight, net.conv1.weight)  # type: ignore[union-attr]


def test_checkpoint_folder_of_a_pruned_network_gives_the_smaller_network(tmp_path: Path) -> None:
    net = other_weights().eval()
    example = torch.zeros(1, 1, 8, 8)
    plan = sc.plan_pruning(net, {"conv2": torch.arange(6)}, keep=0.5, example_input=example)
    pruned = sc.prune(net, plan, example)
    sc.save_pruned(pruned, plan, tmp_path)
    assert same_weights(load_checkpoint(load_model("own_network:Net"), tmp_path), pruned)


def test_checkpoint_that_does_not_fit_lists_the_first_keys_of_each_kind(tmp_path: Path) -> None:
    state = other_weights().state_dict()
    for key in ("conv1.weight", "fc1.bias"):
        del state[key]
    state |= {f"extra{i}": torch.zeros(1) for i in range(7)} | {"fc2.bias": torch.zeros(9)}
    save_file(state, tmp_path / "other.safetensors")
    net = Net()
    before = fingerprint(net)
    with pytest.raises(ValueError, match="do not fit the network") as caught:
        load_checkpoint(net, tmp_path / "other.safetensors")
    assert str(caught.value).endswith(
        "2 missing: conv1.weight, fc1.bias; 7 unexpected: extra0, extra1, extra2, extra3, extra4, ...; "
        "1 of another shape: fc2.bias [9] for [3]"
    )
    assert fingerprint(net) == before


def test_checkpoint_is_never_executed(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    torch.save({"state_dict": Evil(trace)}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(trace), protocol=2))
    torch.save(Net(), tmp_path / "whole.pt")
    for name in ("evil.pt", "raw.pt", "whole.pt"):
        with pytest.raises(ValueError, match=f"{name} must hold nothing but tensors, got a pickle that asks for"):
            load_checkpoint(Net(), tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("junk.pt", b"hello", "must be a file of weights, got one that cannot be read"),
        ("empty.pth", b"", "must be a file of weights, got one that cannot be read"),
        ("junk.safetensors", b"hello", "must be a file of weights, got one that cannot be read"),
    ],
)
def test_checkpoint_damaged_file_is_refused(name: str, content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=text):
        load_checkpoint(Net(), tmp_path / name)


def test_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "numbers.pt")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(
        ValueError, match=r"must hold a state_dict, names and dense tensors, got a dict of epoch, loss$"
    ):
        load_checkpoint(Net(), tmp_path / "numbers.pt")
    with pytest.raises(ValueError, match=r"must hold a state_dict, names and dense tensors, got list$"):
        load_checkpoint(Net(), tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere.pt"):
        load_checkpoint(Net(), tmp_path / "nowhere.pt")
    with pytest.raises(FileNotFoundError, match=r"or a folder with a pruned network's plan.json$"):
        load_checkpoint(Net(), tmp_path)


@pytest.mark.parametrize(
    "weight", [torch.zeros(3).to_sparse(), torch.zeros(3, dtype=torch.complex64), torch.zeros(3, device="meta")]
)
@pytest.mark.parametrize("name", ["conv.weight", 3])
def test_checkpoint_of_other_than_named_numbers_is_refused(name: object, weight: torch.Tensor, tmp_path: Path) -> None:
    torch.save({name: weight, "bias": torch.zeros(3)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="must hold a state_dict, names and dense tensors, got a dict of "):
        load_checkpoint(Net(), tmp_path / "odd.pt")


def test_fingerprint_tells_weights_buffers_and_names_apart() -> None:
    net, other = other_weights(), other_weights()
    assert fingerprint(net) == fingerprint(other)
    with torch.no_grad():
        other.bn1.running_mean[0] += 1e-6
    assert fingerprint(net) != fingerprint(other)


def test_data_that_ships_has_all_splits() -> None:
    source = open_data("fashion-mnist")
    for split, size in (("rank", 1000), ("select", 1000), ("test", 1000), ("train", 4000)):
        samples = source(split, None)
        assert isinstance(samples, sc.Split)
        assert samples.name == split
        assert len(samples.labels) == size


def test_data_of_idx_files_holds_out_what_is_ranked_and_chosen_on(tmp_path: Path) -> None:
    def write(prefix: str, count: int) -> None:
        labels = (np.arange(count) % 4).astype(np.uint8)
        pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, 2, 2))
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            (tmp_path / f"{prefix}-{kind}-ubyte").write_bytes(header + array.tobytes())

    write("train", 160)
    write("t10k", 12)
    source = open_data(f"idx:{tmp_path}")
    found = {split: source(split, None) for split in ("train", "rank", "select", "test")}
    sizes, pixels = {}, {}
    for split, samples in found.items():
        assert isinstance(samples, sc.Split)
        assert samples.name == split
        sizes[split], pixels[split] = len(samples.labels), set(samples.images[:, 0, 0, 0].tolist())
    assert sizes == {"train": 120, "rank": 20, "select": 20, "test": 12}
    assert not pixels["rank"] & pixels["select"]
    assert not (pixels["rank"] | pixels["select"]) & pixels["train"]
    assert found["rank"][1].bincount().tolist() == [5] * 4  # type: ignore[index]


def test_data_of_cifar_comes_from_its_folder(tmp_path: Path) -> None:
    labels = np.arange(5000) % 10
    pixels = np.random.default_rng(0).integers(0, 256, (5000, 3072), dtype=np.uint8)
    write_cifar(tmp_path, pixels, labels, n_classes=10, binary=True)
    samples = open_data(f"cifar10:{tmp_path}")("rank", None)
    assert samples is not None
    assert samples[0].shape == (1000, 3, 32, 32)


def write_images(folder: Path, per_class: int) -> None:
    Image = pytest.importorskip("PIL.Image")
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            Image.new("RGB", (12, 10), (80 * place, 10 * number, 0)).save(folder / name / f"{number}.png")


def test_data_of_images_is_read_as_far_as_it_is_wanted(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    source = open_data(f"images:{tmp_path}", image_size=8)
    samples = source("rank", 4)
    assert samples is not None
    assert samples[0].shape == (4, 3, 8, 8)
    assert samples[1] is not None
    assert samples[1].tolist() == [0, 1, 0, 1]
    assert source("test", None) is None
    assert source("train", None) is None


def test_data_of_images_in_folders_for_splits(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "val", 2)
    source = open_data(f"images:{tmp_path}", image_size=8)
    sizes = {split: samples and len(samples[0]) for split in sc.datasets.SPLITS for samples in [source(split, None)]}
    assert sizes == {"train": 6, "rank": 6, "select": None, "test": 4}
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "wolf")
    with pytest.raises(ValueError, match=r"val must have the same classes as .*train, got others"):
        source("test", None)


def test_data_of_a_function_is_named_and_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, data = [], own_network.data
    monkeypatch.setattr(own_network, "data", lambda: calls.append(1) or data())
    source = open_data("own_network:data")
    for split, size in own_network.SIZES.items():
        samples = source(split, None)
        assert isinstance(samples, sc.Split)
        assert samples.name == split
        assert len(samples.labels) == size
    assert calls == [1]
    unnamed = open_data("own_network:pair")
    assert unnamed("test", None) is None
    inputs, targets = open_data("own_network:inputs")("rank", None) or (None, None)
    assert inputs is not None
    assert targets is None


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("cifar", ValueError, "or package.module:function, got 'cifar'; did you mean 'cifar10'?"),
        ("idx:", FileNotFoundError, "'idx:' must name a folder, got none"),
        ("images:nowhere", FileNotFoundError, "'images:nowhere' must name a folder, got no nowhere"),
        ("own_network:number", TypeError, "own_network:number must be a function that gives data, got int"),
        ("own_network:failing", ImportError, "calling own_network:failing() gave RuntimeError: out of luck"),
        (
            "own_network:validation",
            ValueError,
            "own_network:validation() must give splits named train, rank, select, test, 'rank' among them, got 'val'",
        ),
    ],
)
def test_data_refuses(name: str, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        open_data(name)


def test_data_of_a_function_that_gives_none_is_refused_when_it_is_read() -> None:
    with pytest.raises(TypeError, match=r"own_network:nothing\(\) gave 'rank' data that cannot be used: as_tensors"):
        open_data("own_network:nothing")("rank", None)


def test_draw_is_balanced_seeded_and_keeps_the_name() -> None:
    split = sc.Split(torch.arange(100.0)[:, None], torch.arange(100) % 5, "rank")
    drawn = draw_samples(split, 20, seed=1)
    assert isinstance(drawn, sc.Split)
    assert drawn.labels.bincount().tolist() == [4] * 5
    assert torch.equal(drawn.images, draw_samples(split, 20, seed=1)[0])
    assert not torch.equal(drawn.images, draw_samples(split, 20, seed=2)[0])
    assert torch.equal(drawn.images, split.balanced(20, seed=1).images)
    assert draw_samples(split, None, seed=1) is split


def test_draw_from_classes_that_are_too_rare_is_a_draw_from_all() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    inputs, targets = draw_samples((torch.arange(100.0), labels), 50, seed=0)
    assert targets is not None
    assert torch.equal(targets, labels[inputs.long()])
    assert len(set(inputs.tolist())) == 50
    assert draw_samples((torch.zeros(2000, 1), None), None, seed=0)[0].shape == (1000, 1)


@pytest.mark.parametrize("count", [0, 101])
def test_draw_refuses_more_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match=f"^must be 1 to 100, the samples that there are to rank on, got {count}$"):
        draw_samples((torch.zeros(100, 1), None), count, seed=0)
