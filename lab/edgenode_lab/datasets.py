"""The data sets of the paper's experiments, read from the disk: Fashion-MNIST, CIFAR-10 and CIFAR-100.

edgenode finds them by entry points of edgenode.datasets. Each is a function of the folder `task.data_dir`, or None.
Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgenode.errors import ConfigError
from edgenode.tasks.datasets import Dataset, from_images, require_folder

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def fashion_mnist(data_dir: Path | None) -> Dataset:
    """Fashion-MNIST from Debian's folder, or another one in torchvision's layout or Debian's.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    folder = require_folder("fashion-mnist", data_dir or DEBIAN_FASHION_MNIST)
    return from_images(_idx_pair(folder, "train"), _idx_pair(folder, "t10k"), 10)


def _idx_pair(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    images = _idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte"), dimensions=3)
    labels = _idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte"), dimensions=1)
    return images.unsqueeze(1), labels.long()


def _idx_file(folder: Path, name: str) -> Path:
    """The file in torchvision's layout or in the folder itself (Debian's), gzipped or not."""
    for place in (folder / "FashionMNIST" / "raw", folder / "raw", folder):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise ConfigError(f"{folder} contains no {name}(.gz), and neither does its folder FashionMNIST/raw")


def _idx(path: Path, dimensions: int) -> Tensor:
    """Parse an idx file of bytes: two zeros, type 8, number of dimensions, big-endian sizes, values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *shape = struct.unpack_from(f">{1 + dimensions}I", content)
        if magic != 0x0800 + dimensions:
            raise ValueError(f"it begins with {magic:#x}")
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as exc:
        raise ConfigError(f"{path} is not an idx file of {dimensions} dimensions: {exc}") from exc
    return torch.from_numpy(values.copy())


def cifar10(data_dir: Path | None) -> Dataset:
    """CIFAR-10 in torchvision's layout.

    Raises:
        ConfigError: the folder was not given, or does not have the whole data set.
    """
    return _cifar("cifar10", 10, data_dir)


def cifar100(data_dir: Path | None) -> Dataset:
    """CIFAR-100 in torchvision's layout.

    Raises:
        ConfigError: the folder was not given, or does not have the whole data set.
    """
    return _cifar("cifar100", 100, data_dir)


def _cifar(name: str, num_classes: int, data_dir: Path | None) -> Dataset:
    folder = require_folder(name, data_dir)
    return from_images(_cifar_split(name, folder, train=True), _cifar_split(name, folder, train=False), num_classes)


def _cifar_split(name: str, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    import torchvision

    reader = getattr(torchvision.datasets, name.upper())
    try:
        with warnings.catch_warnings():
            # Today's numpy warns about the age of the archive's pickled arrays.
            warnings.simplefilter("ignore")
            split = reader(str(folder), train=train, download=False)
    except (RuntimeError, OSError) as exc:
        raise ConfigError(f"{folder} contains no complete {name} in torchvision's layout: {exc}") from exc
    images = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.tensor(split.targets, dtype=torch.int64)
