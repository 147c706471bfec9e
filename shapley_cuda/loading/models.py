"""Networks by name, with the weights of a checkpoint. Nothing is ever unpickled but tensors."""

from __future__ import annotations

import difflib
import hashlib
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..networks import NETWORKS, SHIPPED, network, pretrained
from ..storage import load_pruned
from .named import import_named

__all__ = ["fingerprint", "load_checkpoint", "load_model"]

_SHOWN = 5  # keys of each kind that an error lists
_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_UNUSED = "num_batches_tracked"  # a counter of BatchNorm's that evaluation does not read
_TORCHVISION = "torchvision:"


def load_model(name: str, *, trained: bool = True) -> nn.Module:
    """Build a network by its name, in evaluation mode, on the CPU.

    Args:
        name: a network of this package (``"lenet5"``), ``"torchvision:NAME"`` where torchvision is installed, or
            ``"package.module:factory"``: a function or class that is called without arguments and gives a module.
        trained: refuse a network of this package or of torchvision that comes without weights.

    Returns:
        The network: with the weights that ship with this package, or those that the factory gives. Random ones are
        drawn with a fixed seed; the global random state is left as it was.

    Raises:
        ValueError: an unknown name (near ones are suggested), or no weights.
        TypeError: the factory gives no module.
        ImportError: the module does not exist, or importing it or calling the factory raised something.
    """
    with torch.random.fork_rng(devices=[]):
        build = _find_builder(name, trained=trained)
        torch.default_generator.manual_seed(0)  # after imports, which may have drawn numbers
        return build().eval()


def load_checkpoint(model: nn.Module, path: str | Path) -> nn.Module:
    """Load weights into a network, all of them or none.

    Args:
        model: the network that they belong to.
        path: a ``.safetensors`` file; a ``.pt`` or ``.pth`` file with a ``state_dict``, by itself or under a usual
            name in a dict; or a folder that :func:`~shapley_cuda.save_pruned` wrote. Prefixes that DataParallel or
            torch.compile put before all keys are taken off.

    Returns:
        The network itself; the smaller one for a folder.

    Raises:
        ValueError: the file is damaged or asks for anything but tensors (it is then not executed), or its keys or
            shapes are not the network's; the first few that differ are listed.
        FileNotFoundError: there is no such file.
    """
    if Path(path).is_dir():
        if not (Path(path) / "plan.json").is_file():
            raise FileNotFoundError(f"{path} must be a file of weights, or a folder with a pruned network's plan.json")
        return load_pruned(model, path)
    state = _without_prefix(_read_weights(Path(path)))
    expected = model.state_dict()
    differing = {
        "missing": [key for key in expected if key not in state and not key.endswith(_UNUSED)],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {list(state[key].shape)} for {list(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    if any(differing.values()):
        found = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in differing.items() if keys)
        raise ValueError(f"weights in {path} do not fit the network: {found}")
    model.load_state_dict(state, strict=False)
    return model


def fingerprint(model: nn.Module) -> str:
    """Sum up a network's weights, names and buffers included: SHA-256, the same wherever they are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _find_builder(name: str, *, trained: bool) -> Callable[[], nn.Module]:
    if ":" in name and not name.startswith(_TORCHVISION):
        return partial(_call_factory, name, import_named(name))
    if name in SHIPPED:
        return partial(pretrained, name)
    if not name.startswith(_TORCHVISION) and name not in NETWORKS:
        near = difflib.get_close_matches(name.lower(), NETWORKS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(NETWORKS)
        raise ValueError(f"must be one of {known}, torchvision:NAME or package.module:factory, got {name!r}{hint}")
    if trained:
        raise ValueError(
            f"{name} comes without weights ({', '.join(SHIPPED)} have some): give a checkpoint, or a factory of "
            "your own that loads them"
        )
    return partial(network, name)


def _call_factory(name: str, factory: Any) -> nn.Module:
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise TypeError(f"{name} must be a function or class that gives a network, got {type(factory).__name__}")
    try:
        model = factory()
    except Exception as error:  # whatever a user's factory raises
        raise ImportError(f"calling {name}() gave {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name}() must give an nn.Module, got {type(model).__name__}")
    return model


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        asked = f"asks for {named[1]}" if named else "asks for more"
        raise ValueError(
            f"{path} must hold nothing but tensors, got a pickle that {asked} and was not executed; save "
            "model.state_dict()"
        ) from error
    except Exception as error:  # whatever the readers meet in a damaged file
        raise ValueError(f"{path} must be a file of weights, got one that cannot be read: {error}") from error
    return _state_of(content, path)


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(_is_named_tensor(*item) for item in content.items()):
        got = f"a dict of {', '.join(map(str, content))}" if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} must hold a state_dict, names and dense tensors, got {got[:200]}")
    return dict(content)


def _is_named_tensor(name: Any, value: Any) -> bool:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_complex())


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
