"""Fashion-MNIST and CIFAR from the disk: their content, and the errors when files are missing or damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgenode.errors import ConfigError
from edgenode.tasks import datasets


def write_idx(path: Path, values: np.ndarray) -> None:
    content = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("inner", ["FashionMNIST/raw", "."])
def test_fashion_mnist_in_both_layouts(tmp_path: Path, inner: str, suffix: str) -> None:
    folder = tmp_path / "fm" / inner
    folder.mkdir(parents=True)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (6, 28, 28)).astype(np.uint8)
    labels = np.arange(6, dtype=np.uint8)
    for prefix in ("train", "t10k"):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    found = datasets.load("fashion-mnist", tmp_path / "fm")
    assert np.array_equal(found.test_images[:, 0].numpy(), images)
    assert found.train_labels.tolist() == list(range(6))


def test_broken_idx_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(12) + b"x")
    with pytest.raises(ConfigError, match="train-images-idx3-ubyte is not an idx file"):
        datasets.load("fashion-mnist", tmp_path)


def test_cifar_becomes_channels_first_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3)).astype(np.uint8)

    def stored(root: str, train: bool, download: bool) -> SimpleNamespace:
        assert root == str(tmp_path) and not download
        return SimpleNamespace(data=data if train else data[:2], targets=[3, 1, 2, 0] if train else [3, 1])

    monkeypatch.setattr("torchvision.datasets.CIFAR100", stored)
    found = datasets.load("cifar100", tmp_path)
    assert np.array_equal(found.train_images.numpy(), data.transpose(0, 3, 1, 2))
    assert found.test_labels.tolist() == [3, 1]
    assert found.num_classes == 100


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_missing_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        datasets.load(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_empty_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        datasets.load(name, tmp_path)


def test_folder_of_cifar_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"'cifar10' needs its folder: set task\.data_dir"):
        datasets.load("cifar10")
