"""The mini-batches of one node: which samples of its shard a round uses, on the device and normalised.

A batch is a pure function of (seed, shard, round), so a resumed run draws the batches of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from edgenode.errors import ConfigError
from edgenode.tasks import augment
from edgenode.tasks.datasets import Dataset
from edgenode.tasks.seeding import Stream, shuffler

Batch = tuple[Tensor, Tensor]
"""Images [N, channels, size, size] float32, normalised, and labels [N]."""

EVALUATION_BATCH = 128  # the activations of a layer fit a CPU cache: a third less time than with 512


class Batches:
    """One node's shard of a data set, and the test data that all nodes share.

    Attributes:
        samples: of the shard.
        classes: of the data set.
        rounds_per_epoch: batches that hold each sample of the shard once.

    Raises:
        ConfigError: the shard is empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        shard_indices: Tensor,
        batch_size: int,
        augmented: bool,
        *,
        seed: int,
        shard: int,
        device: torch.device,
    ) -> None:
        if len(shard_indices) == 0:
            raise ConfigError(f"shard {shard} contains no training sample")
        self._dataset = dataset  # keeps it loaded for the other trainers of this process
        self._indices, self._augmented, self._seed, self._shard = shard_indices, augmented, seed, shard
        self._order: tuple[int, Tensor] | None = None
        self._device = device
        # On a CPU all nodes of a process read the data set's own tensors. Other devices get a copy of the shard.
        if device.type == "cpu":
            self._rows = shard_indices
            self._train = dataset.train_images, dataset.train_labels
        else:
            self._rows = torch.arange(len(shard_indices))
            chosen = dataset.train_images[shard_indices], dataset.train_labels[shard_indices]
            self._train = chosen[0].to(device), chosen[1].to(device)
        self._test = dataset.test_images.to(device), dataset.test_labels.to(device)
        shape = (1, dataset.channels, 1, 1)
        self._mean = torch.tensor(dataset.mean, device=device).view(shape)
        self._std = torch.tensor(dataset.std, device=device).view(shape)
        self.samples, self.classes = len(shard_indices), dataset.num_classes
        self.rounds_per_epoch = math.ceil(self.samples / batch_size)

    def indices(self, t: int) -> Tensor:
        """The training samples that round t uses, as indices into the whole training set."""
        return self._indices[self._places(t)]

    def batch(self, t: int, augmentation_seed: int) -> Batch:
        """The mini-batch of round t."""
        chosen = self._rows[self._places(t)].to(self._device)
        images = self._train[0][chosen]
        if self._augmented:
            # Before normalisation, as in torchvision's transforms: the border is black.
            generator = torch.Generator().manual_seed(augmentation_seed)
            images = augment.apply(images, augment.draw(len(images), generator))
        return self._normalised(images), self._train[1][chosen]

    def test(self) -> Iterator[Batch]:
        """The test data, `EVALUATION_BATCH` at a time."""
        for images, labels in zip(*(torch.split(part, EVALUATION_BATCH) for part in self._test), strict=True):
            yield self._normalised(images), labels

    def training_sample(self) -> Batch:
        """Every k-th sample of the shard, at most `EVALUATION_BATCH` in all."""
        rows = self._rows[:: math.ceil(len(self._rows) / EVALUATION_BATCH)]
        return self._normalised(self._train[0][rows]), self._train[1][rows]

    def _places(self, t: int) -> Tensor:
        """Positions within the shard of round t's samples.

        An epoch uses each sample once, in batches whose sizes differ by at most one. Full batches would leave a rest
        of perhaps a single image, whose noisy gradient would count as much as any other.
        """
        epoch, place = divmod(t, self.rounds_per_epoch)
        count = len(self._indices)
        first, last = (count * p // self.rounds_per_epoch for p in (place, place + 1))
        return self._epoch_order(epoch)[first:last]

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            random = shuffler(self._seed, Stream.ORDER, self._shard, epoch)
            self._order = epoch, torch.from_numpy(random.permutation(len(self._indices)))
        return self._order[1]

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self._mean) / self._std
