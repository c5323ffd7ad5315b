"""Loads a classification data set by name into tensors. Never downloads and never augments.

Images keep their stored type, uint8 for most data sets. A mini-batch is normalised when it is used, so that a small
device holds one byte per pixel.
"""

from __future__ import annotations

import difflib
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgenode.entry_points import Group
from edgenode.errors import ConfigError
from edgenode.tasks import imagefolder

_DIGITS = Path(__file__).parent / "data" / "digits.npz"  # digits.md names its source and its licence


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Dataset:
    """Images [N, channels, size, size] (uint8 or float32), labels [N] (int64, 0 to num_classes - 1).

    `mean` and `std` are per channel over the training images, in the units of the stored images. Models are given
    (image - mean) / std.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    """The names of the classes in the order of the labels, for data sets whose classes the user names."""
    listings: tuple[imagefolder.Listing, imagefolder.Listing] | None = None
    """The files of the training and the test images, of an imagefolder."""

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        return self.train_images.shape[2]


# Weak: the many simulations of an experiment share one copy, and it is freed with the last of them.
_loaded: weakref.WeakValueDictionary[object, Dataset] = weakref.WeakValueDictionary()


def load(
    name: str, data_dir: str | Path | None = None, classes: Sequence[str] = (), image_size: int | None = None
) -> Dataset:
    """Return the data set `name`, read from the folder `data_dir` ("digits" needs none).

    Only an imagefolder has ``classes`` and an ``image_size`` to be given.

    Raises ConfigError if the name is unknown, files are missing or damaged, or one of ``classes`` does not exist.
    """
    refuse_unknown(name)
    key = name, None if data_dir is None else str(data_dir), tuple(classes), image_size
    found = _loaded.get(key)
    if found is None:
        folder = None if data_dir is None else Path(data_dir).expanduser()
        read = DATASETS[name]
        found = _loaded[key] = _imagefolder(folder, classes, image_size) if read is _imagefolder else read(folder)
        if name not in DATASETS.own:
            _require_sound(name, found)
    for missing in (label for label in classes if label not in found.classes):
        raise ConfigError(f"{name} has no class {missing!r}, which task.classes names")
    return found


def refuse_unknown(name: str) -> None:
    """Raise ConfigError if `load` does not know this name, or its package cannot be imported. Reads nothing."""
    if name not in DATASETS:
        if missing := DATASETS.in_laboratory(name):
            raise ConfigError(f"dataset {name!r}: {missing}")
        known = DATASETS.names()
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ConfigError(f"dataset {name!r} is unknown: did you mean {near!r}? (known: {', '.join(known)})")
    try:
        DATASETS[name]
    except ConfigError as exc:
        raise ConfigError(f"dataset {name!r}: {exc}") from exc


def _require_sound(name: str, dataset: Dataset) -> None:
    """Raise ConfigError if what a package has read cannot be trained on."""
    pairs = ((dataset.train_images, dataset.train_labels), (dataset.test_images, dataset.test_labels))
    for images, labels in pairs:
        square = images.ndim == 4 and images.shape[2] == images.shape[3]
        if not square or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            shapes = f"{list(images.shape)} and {list(labels.shape)}"
            raise ConfigError(f"dataset {name!r}: images and int64 labels are {shapes}, not [N, C, S, S] and [N]")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < dataset.num_classes:
            raise ConfigError(f"dataset {name!r}: a label is not from 0 to {dataset.num_classes - 1}")


def with_common_moments(dataset: Dataset) -> Dataset:
    """The data set with the moments of ImageNet, as is usual for photos. They do not depend on the images."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    if dataset.channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    return replace(dataset, mean=tuple(255 * m for m in mean), std=tuple(255 * s for s in std))


def require_folder(name: str, data_dir: Path | None) -> Path:
    """Return the folder of a data set. Raises ConfigError if it was not given, or is not a folder."""
    if data_dir is None:
        raise ConfigError(f"dataset {name!r} needs its folder: set task.data_dir")
    if not data_dir.is_dir():
        raise ConfigError(f"task.data_dir {data_dir} of dataset {name!r} is not a folder on this device")
    return data_dir


def from_images(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int) -> Dataset:
    """The data set of these images and labels, with the moments of its training images."""
    mean, std = _moments(train[0])
    return Dataset(*train, *test, num_classes, mean, std)


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel; a constant channel gets a deviation of 1."""
    pairs = [_channel_moments(images[:, channel]) for channel in range(images.shape[1])]
    return tuple(mean for mean, _ in pairs), tuple(std or 1.0 for _, std in pairs)


def _channel_moments(values: Tensor) -> tuple[float, float]:
    if values.dtype != torch.uint8:
        deviation, average = torch.std_mean(values.double(), correction=0)
        return float(average), float(deviation)
    # Sums over a histogram are exact integers, so that every device gets the same result with any number of threads.
    counts = torch.bincount(values.reshape(-1), minlength=256).tolist()
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    return first / total, math.sqrt(total * second - first * first) / total


# digits ------------------------------------------------------------------------------------------------


def _digits(data_dir: Path | None) -> Dataset:
    """Read the package's 1,797 handwritten digits, 8x8 in 17 grey levels. A fifth of each class is the test set."""
    del data_dir
    with np.load(_DIGITS) as arrays:
        images = torch.from_numpy(arrays["images"]).unsqueeze(1)
        labels = torch.from_numpy(arrays["labels"]).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[torch.nonzero(labels == label).flatten()[4::5]] = True
    return from_images((images[~held_out], labels[~held_out]), (images[held_out], labels[held_out]), 10)


# image folder ------------------------------------------------------------------------------------------


def _imagefolder(data_dir: Path | None, classes: Sequence[str] = (), image_size: int | None = None) -> Dataset:
    train, test, listings = imagefolder.read(require_folder("imagefolder", data_dir), classes, image_size)
    names = listings[0].classes
    return replace(from_images(train, test, len(names)), classes=names, listings=listings)


_READERS: dict[str, Callable[[Path | None], Dataset]] = {"digits": _digits, "imagefolder": _imagefolder}

DATASETS: Group[Callable[[Path | None], Dataset]] = Group("edgenode.datasets", Callable, _READERS)
