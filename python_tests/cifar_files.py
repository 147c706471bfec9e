"""Files as the authors of CIFAR distribute them, made of given images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class _Pickler:
    """Writes what Python 2's cPickle writes with protocol 2: strings without an encoding, a memo of all objects."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.n_memo = 0

    def remember(self) -> int:
        self.n_memo += 1
        self.out += b"q" + bytes([self.n_memo]) if self.n_memo < 256 else b"r" + self.n_memo.to_bytes(4, "little")
        return self.n_memo

    def again(self, memo: int) -> None:
        self.out += b"h" + bytes([memo])

    def string(self, value: bytes) -> int:
        short = len(value) < 256
        self.out += b"U" + bytes([len(value)]) if short else b"T" + len(value).to_bytes(4, "little")
        self.out += value
        return self.remember()

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65_536:
            self.out += b"M" + value.to_bytes(2, "little")
        else:
            self.out += b"J" + value.to_bytes(4, "little", signed=True)

    def name(self, module: bytes, name: bytes) -> None:
        self.out += b"c" + module + b"\n" + name + b"\n"
        self.remember()

    def array(self, values: np.ndarray) -> None:
        self.name(b"numpy.core.multiarray", b"_reconstruct")
        self.name(b"numpy", b"ndarray")
        self.out += b"K\x00\x85"
        self.remember()
        self.string(b"b")
        self.out += b"\x87"
        self.remember()
        self.out += b"R"
        self.remember()
        self.out += b"(K\x01"
        for size in values.shape:
            self.integer(size)
        self.out += {1: b"\x85", 2: b"\x86", 3: b"\x87"}[values.ndim]
        self.remember()
        self.name(b"numpy", b"dtype")
        self.string(values.dtype.str[1:].encode())
        self.out += b"K\x00K\x01\x87"
        self.remember()
        self.out += b"R"
        self.remember()
        self.out += b"(K\x03"
        self.string(values.dtype.str[:1].encode())
        self.out += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.string(values.tobytes())
        self.out += b"tb"

    def integers(self, values: list[int]) -> None:
        self.out += b"]"
        self.remember()
        self.out += b"("
        for value in values:
            self.integer(value)
        self.out += b"e"


def python2_batch(pixels: np.ndarray, labels: list[int], label_key: str = "labels") -> bytes:
    """A python batch: pixels uint8 [N, 3072] and their labels."""
    pickler = _Pickler()
    pickler.out += b"}"
    pickler.remember()
    pickler.out += b"("
    pickler.string(b"batch_label")
    title = pickler.string(b"training batch 1 of 5")
    pickler.string(label_key.encode())
    pickler.integers(labels)
    pickler.string(b"data")
    pickler.array(pixels)
    pickler.string(b"filenames")
    pickler.out += b"]"
    pickler.remember()
    pickler.out += b"("
    for _ in labels:
        pickler.again(title)
    return bytes(pickler.out + b"eu.")


def write_cifar(folder: Path, pixels: np.ndarray, labels: np.ndarray, *, n_classes: int, binary: bool) -> None:
    """Write all files of CIFAR-10 or CIFAR-100; the test half is a copy of the last fifth of the training half."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] if n_classes == 10 else ["train"]
    parts = list(zip(names, np.array_split(pixels, len(names)), np.array_split(labels, len(names)), strict=True))
    fifth = len(labels) // 5
    parts.append(("test_batch" if n_classes == 10 else "test", pixels[-fifth:], labels[-fifth:]))
    for name, images, classes in parts:
        if binary:
            coarse = [classes // 5] if n_classes == 100 else []
            columns = [*(column[:, None].astype(np.uint8) for column in (*coarse, classes)), images]
            (folder / f"{name}.bin").write_bytes(np.concatenate(columns, axis=1).tobytes())
        else:
            key = "labels" if n_classes == 10 else "fine_labels"
            (folder / name).write_bytes(python2_batch(images, classes.tolist(), key))
