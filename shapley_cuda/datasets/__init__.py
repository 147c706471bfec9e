"""Data in splits, each with one purpose, from files on this machine; nothing is downloaded.

Ranking needs data that the training has not seen, and a test set that neither the ranking nor any other choice has
seen. So there are four splits: "train" to (re)train on, "rank" to estimate channel values on, "select" to choose epochs
or hyper-parameters on, "test" to report on. The first three are disjoint parts of the official training set, the last
is the official test set. A `Split` remembers its name, so that code can refuse to rank on the test set.

A part of Fashion-MNIST ships with the package (`fashion_mnist_subset`). The full set (`fashion_mnist`), CIFAR
(`cifar10`, `cifar100`), IDX folders (`load_idx_folder`) and folders of images (`load_image_folder`) are read where they
are, and `as_tensors` takes whatever else comes in batches. Images are normalised and nothing more: nothing is ever
augmented here, since values estimated on augmented images would be those of other images than are ranked. Augment in
the training loop, if at all.
"""

from .batches import read_python_batch
from .cifar import cifar10, cifar100, load_cifar_folder
from .collect import as_tensors
from .fashion import (
    CLASS_NAMES,
    fashion_mnist,
    fashion_mnist_folder,
    fashion_mnist_subset,
    subset_indices,
)
from .idx import load_idx_folder, read_idx
from .images import image_classes, load_image_folder
from .pixels import normalise
from .splits import SPLITS, Split

__all__ = [
    "CLASS_NAMES",
    "SPLITS",
    "Split",
    "as_tensors",
    "cifar10",
    "cifar100",
    "fashion_mnist",
    "fashion_mnist_folder",
    "fashion_mnist_subset",
    "image_classes",
    "load_cifar_folder",
    "load_idx_folder",
    "load_image_folder",
    "normalise",
    "read_idx",
    "read_python_batch",
    "subset_indices",
]
