"""Decodes train/CLASS/*.jpg and test/CLASS/*.jpg once. Later runs map the decoded copy.

The copy is a safetensors file in the user's cache folder. It contains a digest of every file's path, size and time, so
that a changed folder is decoded again. A cache that cannot be written or read only costs time. An image that cannot be
read is an error that names it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenode.errors import ConfigError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Listing:
    """The image files of one split and the class number of each, in the order of their names."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def read(folder: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Return (images uint8 [N, channels, size, size], labels [N]) for train and test, and the names of the classes.

    Classes are the folders of train/, sorted, each with at least one image. All images must be square and of one size.
    They have one channel if every file is grey, and otherwise three.

    Raises ConfigError with the folder or image that does not fit.
    """
    classes = _classes(folder / "train")
    train, test = (_listing(folder / part, classes) for part in ("train", "test"))
    if empty := [name for label, name in enumerate(classes) if label not in set(train.labels)]:
        raise ConfigError(f"{folder / 'train' / empty[0]} contains no image ({', '.join(sorted(SUFFIXES))})")
    digest = _digest(folder, train, test)
    copy = _cache_file(folder)
    images = _cached(copy, digest)
    if images is None:
        images = torch.from_numpy(_decode((*train.paths, *test.paths)))
        _store(copy, digest, images)
    count = len(train.paths)
    return (
        (images[:count], torch.tensor(train.labels, dtype=torch.int64)),
        (images[count:], torch.tensor(test.labels, dtype=torch.int64)),
        tuple(classes),
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: imagefolder needs train/CLASS/*.jpg and test/CLASS/*.jpg")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> list[str]:
    classes = _subfolders(folder)
    if len(classes) < 2:
        raise ConfigError(f"{folder} has {len(classes)} class folders, but at least two are needed")
    return classes


def _listing(folder: Path, classes: Sequence[str]) -> _Listing:
    unknown = [name for name in _subfolders(folder) if name not in classes]
    if unknown:
        raise ConfigError(f"{folder / unknown[0]} is a class that train/ does not have")
    pairs = [(path, label) for label, name in enumerate(classes) for path in _images(folder / name)]
    if not pairs:
        raise ConfigError(f"{folder} contains no image ({', '.join(sorted(SUFFIXES))})")
    return _Listing(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []  # a class without test images
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


# decoding ----------------------------------------------------------------------------------------------


def _decode(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return uint8 [N, 1 or 3, size, size]."""
    first, _ = _pixels(paths[0])
    size = _square(paths[0], first)
    images = np.empty((len(paths), 3, size, size), np.uint8)
    all_grey = True
    for place, path in enumerate(paths):
        pixels, grey = _pixels(path)
        if _square(path, pixels) != size:
            other = pixels.shape[0]
            raise ConfigError(f"{path} is {other}x{other}, but {paths[0]} is {size}x{size}: scale all to one size")
        images[place] = pixels.transpose(2, 0, 1)
        all_grey &= grey
    # Grey pixels were decoded to three equal channels.
    return np.ascontiguousarray(images[:, :1]) if all_grey else images


def _pixels(path: Path) -> tuple[NDArray[np.uint8], bool]:
    """Return (uint8 [height, width, 3], whether the file is grey)."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")), image.mode in {"1", "L"}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise ConfigError(f"{path} is not a readable image: {exc}") from exc


def _square(path: Path, pixels: NDArray[np.uint8]) -> int:
    height, width = int(pixels.shape[0]), int(pixels.shape[1])
    if height != width:
        raise ConfigError(f"{path} is {width}x{height}, but images must be square: crop or scale them first")
    return height


# the decoded copy --------------------------------------------------------------------------------------


def _digest(folder: Path, *listings: _Listing) -> str:
    found = hashlib.sha256()
    for listing in listings:
        for path in listing.paths:
            status = path.stat()
            line = f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            found.update(line.encode(errors="surrogateescape"))
    return found.hexdigest()


def _cache_file(folder: Path) -> Path:
    """Return the path of the copy of `folder`: one file per folder, so that a new copy replaces the old one."""
    import platformdirs

    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return platformdirs.user_cache_path("edgenode") / f"imagefolder-{place}.safetensors"


def _cached(path: Path, digest: str) -> Tensor | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as copy:
            # Mapped and not read: a node loads only the pages of its own shard.
            return copy.get_tensor("images") if copy.metadata().get("digest") == digest else None
    except (OSError, SafetensorError):
        return None


def _store(path: Path, digest: str, images: Tensor) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Several nodes of one machine may decode at the same time. Each writes its own file, and the last rename wins.
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"images": images}, draft, {"digest": digest})
        draft.replace(path)
    except (OSError, SafetensorError):
        with suppress(OSError):
            draft.unlink()
