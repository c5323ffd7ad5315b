"""Decodes train/CLASS/*.jpg and test/CLASS/*.jpg once. Later runs map the decoded copy.

The copy is a safetensors file in the user's cache folder. It contains a digest of every file's path, size and time, so
that a changed folder is decoded again. A cache that cannot be written or read only costs time. An image that cannot be
read is an error that names it.

With a size given, images of any shape are scaled to it and cropped: photos of a phone need no preparation.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenode.errors import ConfigError

log = structlog.get_logger()

_LOG_EVERY_S = 3.0
_REMEDY = "set task.image_size to scale and crop all images"
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Listing:
    """The image files of one split and the class number of each, in the order of the classes and their names.

    Attributes:
        folder: the folder of the split.
        classes: names of all classes.
    """

    folder: Path
    classes: tuple[str, ...]
    paths: tuple[Path, ...] = ()
    labels: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """The paths within the folder."""
        return [str(path.relative_to(self.folder)) for path in self.paths]

    def renewed(self) -> Listing:
        """List the folder again. Folders of other classes are ignored. Raises OSError if it cannot be read."""
        images = [_images(self.folder / name) for name in self.classes]
        labels = (label for label, paths in enumerate(images) for _ in paths)
        return replace(self, paths=tuple(chain.from_iterable(images)), labels=tuple(labels))


def read(
    folder: Path, classes: Sequence[str] = (), image_size: int | None = None
) -> tuple[Split, Split, tuple[Listing, Listing]]:
    """Return (images uint8 [N, channels, size, size], labels [N]) for train and test, and where they are from.

    Classes are the folders of train/, sorted, each with at least one image. With ``classes`` they are those, sorted,
    and this folder may lack images of some. Without test/ there are no test images.

    Images are scaled and cropped to ``image_size``. Without it they must all be square and of one size. They have one
    channel if every file is grey, and otherwise three.

    Raises ConfigError with the folder or image that does not fit.
    """
    names = sorted(set(classes)) or classes_of(folder)
    known = "task.classes does not name" if classes else "train/ does not have"
    train = _listing(folder / "train", names, known)
    has_test = (folder / "test").is_dir()
    test = _listing(folder / "test", names, known) if has_test else Listing(folder / "test", tuple(names))
    if not classes and (empty := [name for label, name in enumerate(names) if label not in set(train.labels)]):
        raise ConfigError(f"{folder / 'train' / empty[0]} contains no image ({', '.join(sorted(SUFFIXES))})")
    digest = _digest(folder, image_size, train, test)
    copy = _cache_file(folder)
    images = _cached(copy, digest)
    if images is None:
        images = torch.from_numpy(_decode((*train.paths, *test.paths), image_size))
        _store(copy, digest, images)
    count = len(train.paths)
    return (
        (images[:count], torch.tensor(train.labels, dtype=torch.int64)),
        (images[count:], torch.tensor(test.labels, dtype=torch.int64)),
        (train, test),
    )


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is not a folder: imagefolder needs train/CLASS/*.jpg, and test/CLASS/*.jpg to test"
        )
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def classes_of(folder: Path) -> list[str]:
    """The classes that the folders of train/ name, sorted.

    Raises ConfigError if there are fewer than two.
    """
    train = folder / "train"
    classes = _subfolders(train)
    if len(classes) < 2:
        raise ConfigError(f"{train} has {len(classes)} class folders, but at least two are needed")
    return classes


def _listing(folder: Path, classes: Sequence[str], known: str) -> Listing:
    unknown = [name for name in _subfolders(folder) if name not in classes]
    if unknown:
        raise ConfigError(f"{folder / unknown[0]} is a class that {known}")
    listing = Listing(folder, tuple(classes)).renewed()
    if not listing.paths:
        raise ConfigError(f"{folder} contains no image ({', '.join(sorted(SUFFIXES))})")
    return listing


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []  # a class without test images
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


# decoding ----------------------------------------------------------------------------------------------


def _decode(paths: Sequence[Path], image_size: int | None) -> NDArray[np.uint8]:
    """Return uint8 [N, 1 or 3, size, size]."""
    images = np.empty((0, 3, 0, 0), np.uint8)
    all_grey = True
    logged = time.monotonic()
    for place, path in enumerate(paths):
        pixels, grey = pixels_of(path, image_size)
        size = _square(path, pixels)
        if place == 0:
            images = np.empty((len(paths), 3, size, size), np.uint8)
        if size != images.shape[2]:
            raise ConfigError(
                f"{path} is {size}x{size}, but {paths[0]} is {images.shape[2]}x{images.shape[2]}: {_REMEDY}"
            )
        images[place] = pixels.transpose(2, 0, 1)
        all_grey &= grey
        if time.monotonic() - logged > _LOG_EVERY_S:  # photos of a phone take a small device a while
            logged = time.monotonic()
            log.info("decoding images", done=place + 1, of=len(paths))
    # Grey pixels were decoded to three equal channels.
    return np.ascontiguousarray(images[:, :1]) if all_grey else images


def pixels_of(path: Path, image_size: int | None) -> tuple[NDArray[np.uint8], bool]:
    """Return (uint8 [height, width, 3], whether the file is grey)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            grey = image.mode in {"1", "L"}
            if image_size is None:
                return np.asarray(image.convert("RGB")), grey
            # A JPEG is decoded at a fraction of its size, which takes a fraction of the time.
            image.draft("RGB", (2 * image_size, 2 * image_size))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            # The shorter side is scaled to the size, and the middle of the longer one is kept.
            return np.asarray(ImageOps.fit(upright, (image_size, image_size), Image.Resampling.BICUBIC)), grey
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise ConfigError(f"{path} is not a readable image: {exc}") from exc


def _square(path: Path, pixels: NDArray[np.uint8]) -> int:
    height, width = int(pixels.shape[0]), int(pixels.shape[1])
    if height != width:
        raise ConfigError(f"{path} is {width}x{height}, but images must be square: {_REMEDY}")
    return height


# the decoded copy --------------------------------------------------------------------------------------


def _digest(folder: Path, image_size: int | None, *listings: Listing) -> str:
    found = hashlib.sha256(b"" if image_size is None else f"size {image_size}\n".encode())
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
