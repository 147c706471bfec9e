"""Python batches: what they hold is read, what they ask to be called is not."""

from __future__ import annotations

import os
import pickle
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cifar_files import python2_batch

from shapley_cuda.datasets import read_python_batch

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
BATCH = python2_batch(PIXELS, [3, 0, 300, 70_000])
SMALL = python2_batch(PIXELS[:, :5], [3, 0, 1, 2])


def written(folder: Path, content: bytes) -> Path:
    path = folder / "data_batch_1"
    path.write_bytes(content)
    return path


def test_the_files_made_here_are_pickles_as_python_2_wrote_them() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an old name in NumPy
        found = pickle.loads(BATCH, encoding="bytes")
    assert list(found) == [b"batch_label", b"labels", b"data", b"filenames"]
    assert np.array_equal(found[b"data"], PIXELS)
    assert found[b"labels"] == [3, 0, 300, 70_000]


def test_read_python_batch_gives_what_python_2_wrote(tmp_path: Path) -> None:
    found = read_python_batch(written(tmp_path, BATCH))
    assert list(found) == ["batch_label", "labels", "data", "filenames"]
    assert found["data"].dtype == np.uint8
    assert found["data"].flags.writeable
    assert np.array_equal(found["data"], PIXELS)
    assert found["labels"] == [3, 0, 300, 70_000]
    assert found["filenames"] == [b"training batch 1 of 5"] * 4


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_python_batch_gives_what_python_3_wrote(tmp_path: Path, protocol: int, order: Any) -> None:
    content = {b"data": np.array(PIXELS, order=order), "labels": [1, 2], b"batch_label": "one", b"n": -5, b"none": None}
    found = read_python_batch(written(tmp_path, pickle.dumps(content, protocol=protocol)))
    assert np.array_equal(found.pop("data"), PIXELS)
    assert found == {"labels": [1, 2], "batch_label": "one", "n": -5, "none": None}


class _Call:
    """Asks to be unpickled by a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("place", ["value", "key", "item", "whole"])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, protocol: int, place: str) -> None:
    marker = tmp_path / "executed"
    call = _Call(os.mkdir, str(marker))
    content: Any = {"value": {b"data": call}, "key": {call: b"data"}, "item": {b"data": [call]}, "whole": call}[place]
    raw = pickle.dumps(content, protocol=protocol)
    path = written(tmp_path, raw)
    with pytest.raises(
        ValueError, match=re.escape(f"read_python_batch: {path} must be a pickled dict of lists, strings")
    ):
        read_python_batch(path)
    assert not marker.exists()
    pickle.loads(raw) if place == "value" else None  # the same file does harm where it is unpickled
    assert marker.exists() == (place == "value")


def test_refusal_names_what_the_file_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps({b"data": _Call(eval, "1")}, protocol=2))
    message = (
        f"read_python_batch: {path} must be a pickled dict of lists, strings and byte arrays, which is read and never "
        "executed, got: it names '__builtin__.eval'"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_python_batch(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"\x80\x02]q\x01.", "list instead of a dict"),
        (b"\x80\x02}(U\x01acnumpy\ndtype\nu.", "a global among its values"),
        (b"\x80\x02}(U\x01acnumpy\nndarray\n)Ru.", "a value made by 'numpy.ndarray'"),
        (b"\x80\x02}(U\x01acnumpy\ndtype\n(U\x01OtRu.", "a value made by 'numpy.dtype'"),
        (b"\x80\x02}(U\x01ac_codecs\nencode\n(X\x01\0\0\0aX\x04\0\0\0zliptRu.", "bytes encoded in 'zlip'"),
        (b"\x80\x02}U\x01a]s}b.", "dict where a note was due"),
        (b"\x80\x02}(U\x01a]U\x01bU\x01cRu.", "bytes where a global was due"),
        (b"\x80\x02}(cos\nsystem\n", "it names 'os.system'"),
        (b"(ios\nsystem\n.", "opcode INST at byte 1"),
        (b"\x80\x02\x82\x01.", "opcode EXT1 at byte 2"),
        (b"\x80\x02Pwho\n.", "opcode PERSID at byte 2"),
        (b"\x80\x02}(U\x01aU\x01bU\x01cu.", "zip() argument 2 is shorter than argument 1"),
        (b"\x80\x02}(U\x01a(U\x01b(K\x01ttu.", "a tuple among its values"),
        (python2_batch(PIXELS.astype(np.int64), [1]), "not of bytes"),
        (BATCH.replace(b"M\x00\x0c", b"M\x01\x0c"), "12288 bytes for an array of shape (4, 3073)"),
    ],
)
def test_read_python_batch_damaged_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_python_batch(path)
    assert str(path) in str(refused.value)


def test_read_python_batch_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    for length in range(len(SMALL)):
        with pytest.raises(ValueError, match="must be a pickled dict"):
            read_python_batch(written(tmp_path, SMALL[:length]))


def test_read_python_batch_of_flipped_bytes_is_read_or_refused(tmp_path: Path) -> None:
    generator = random.Random(0)
    n_refused = 0
    for _ in range(500):
        content = bytearray(SMALL)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        try:
            read_python_batch(written(tmp_path, bytes(content)))
        except ValueError:
            n_refused += 1
    assert 0 < n_refused < 500


def test_read_python_batch_great_memo_number_takes_no_memory(tmp_path: Path) -> None:
    assert read_python_batch(written(tmp_path, b"\x80\x02}r\xff\xff\xff\x7f.")) == {}


@pytest.mark.parametrize("place", ["key", "value", "type"])
def test_read_python_batch_tuples_in_tuples_are_refused_and_end_nothing(tmp_path: Path, place: str) -> None:
    nested = b")" + b"\x85" * 1_000_000  # Python itself dies of hashing it
    content = {
        "key": b"}" + nested + b"Ns.",
        "value": b"}U\x01a" + nested + b"s.",
        "type": b"}U\x01acnumpy.core.multiarray\n_reconstruct\n)R(NN" + nested + b"NNtbs.",
    }[place]
    with pytest.raises(ValueError, match=r"read_python_batch: .* must be a pickled dict"):
        read_python_batch(written(tmp_path, b"\x80\x02" + content))


def test_read_python_batch_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_python_batch(tmp_path / "nowhere")
