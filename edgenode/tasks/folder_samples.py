"""The images of one split of an imagefolder, which gets new ones while a node trains on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import structlog
import torch
from torch import Tensor

from edgenode.errors import ConfigError
from edgenode.tasks import imagefolder
from edgenode.tasks.imagefolder import Listing

log = structlog.get_logger()

_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as PIL weights them
_AT_ONCE_S = 5.0  # the other nodes wait, so the rest of many new photos follows in the next pass


class ImageSamples:
    """Images [N, channels, size, size] and their classes [N]. Whole batches are read at once."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = torch.tensor(indices)
        return self.images[rows], self.targets[rows]


class FolderSamples(ImageSamples):
    """Images uint8 of a folder, which grow in number. They have names, and their indices never change.

    Args:
        images: the images of the listing, in its order.
        image_size: the size of new images after scaling and cropping. None requires the size of ``images``.
    """

    def __init__(self, images: Tensor, listing: Listing, image_size: int | None) -> None:
        super().__init__(images, torch.tensor(listing.labels, dtype=torch.int64))
        self._listing, self._image_size = listing, image_size
        self._more = images[:0].clone()  # the new ones. `images` may be mapped from a file, so it is not copied
        self._place = {name: place for place, name in enumerate(listing.names)}
        self._skipped: set[str] = set()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows, first = torch.tensor(indices), len(self.images)
        if not len(self._more) or int(rows.max()) < first:
            return self.images[rows], self.targets[rows]
        images = torch.stack([self.images[row] if row < first else self._more[row - first] for row in indices])
        return images, self.targets[rows]

    def places(self, names: Sequence[str]) -> Tensor:
        """Return the indices of these samples, in their order, without those that are not here."""
        return torch.tensor([self._place[name] for name in names if name in self._place], dtype=torch.int64)

    def listed(self) -> list[str]:
        """Look into the folder, decode new images for at most `_AT_ONCE_S`, and return the names of all samples.

        Images that cannot be used yet, for example because they are still being copied, are left out.
        """
        try:
            found = self._listing.renewed()
        except OSError as exc:
            log.warning("new images are not looked for", reason=str(exc))
            return [name for name in self._listing.names if name in self._place]
        self._listing = found
        new = [(n, p, label) for n, p, label in zip(found.names, found.paths, found.labels, strict=True)
               if n not in self._place]  # fmt: skip
        self._decode(new)
        return [name for name in found.names if name in self._place]

    def _decode(self, new: Sequence[tuple[str, Path, int]]) -> None:
        images: list[Tensor] = []
        labels: list[int] = []
        until = time.monotonic() + _AT_ONCE_S
        for name, path, label in new:
            if time.monotonic() > until:
                break
            try:
                images.append(self._pixels(path))
            except ConfigError as exc:
                if name not in self._skipped:
                    log.warning("skipping an image until it can be used", reason=str(exc))
                self._skipped.add(name)
                continue
            self._place[name] = len(self.targets) + len(labels)
            labels.append(label)
        if labels:
            self._more = torch.cat([self._more, torch.stack(images)])
            self.targets = torch.cat([self.targets, torch.tensor(labels, dtype=torch.int64)])

    def _pixels(self, path: Path) -> Tensor:
        """uint8 [channels, size, size], as the first images are."""
        pixels, _ = imagefolder.pixels_of(path, self._image_size)
        channels, size = self.images.shape[1:3]
        if pixels.shape[:2] != (size, size):
            raise ConfigError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, but the first images are {size}x{size}")
        if channels == 1:
            pixels = np.round(pixels @ _GREY)[..., None].astype(np.uint8)
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))
