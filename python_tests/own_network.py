"""What a user of the command line might have: a network, data, and things that are wrong with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = {"rank": 60, "train": 90, "select": 30, "test": 50}
N_CLASSES = 3


class Net(nn.Module):
    """Groups conv1 (4 channels, with BatchNorm), conv2 (6) and fc1 (5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.fc1 = nn.Linear(24, 5)
        self.fc2 = nn.Linear(5, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class Mixing(nn.Module):
    """Its first group looks prunable, and is not: a softmax over its channels mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(1, 4, 3)
        self.plain = nn.Conv2d(4, 5, 3)
        self.fc = nn.Linear(5 * 16, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.relu(self.plain(self.mixed(x).softmax(1))), 1))


class OnlyMixing(nn.Module):
    """No group of it can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4 * 36, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.mixed(x).softmax(1), 1))


def data() -> dict[str, tuple[Tensor, Tensor]]:
    """All splits; a class is told by where an image is bright."""
    generator = torch.Generator().manual_seed(3)
    splits = {}
    for name, size in SIZES.items():
        labels = torch.arange(size) % N_CLASSES
        images = torch.randn(size, 1, 8, 8, generator=generator) / 2
        for label in range(N_CLASSES):
            images[labels == label, :, 2 * label : 2 * label + 3] += 1
        splits[name] = (images, labels)
    return splits


def pair() -> tuple[Tensor, Tensor]:
    return data()["rank"]


def inputs() -> Tensor:
    return pair()[0]


def classes_too_many() -> tuple[Tensor, Tensor]:
    return inputs(), torch.arange(SIZES["rank"])


def colour() -> tuple[Tensor, Tensor]:
    return inputs().expand(-1, 3, -1, -1), pair()[1]


def validation() -> dict[str, tuple[Tensor, Tensor]]:
    return {"val": pair()}


def nothing() -> None:
    return None


def failing() -> None:
    raise RuntimeError("out of luck")


number = 3
trained = Net()
