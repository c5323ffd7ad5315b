"""The mini-batches of one node: which of its samples each batch has.

A batch is a pure function of (seed, shard, number of the batch), so a resumed run draws the batches of an
uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from edgenode.errors import ConfigError
from edgenode.tasks.seeding import Stream, shuffler
from edgenode.tasks.task import Batch, Samples, Task

EVALUATION_BATCH = 128  # the activations of a layer fit a CPU cache: a third less time than with 512


class Batches:
    """Batches of some samples of a data set, in a new order on every pass.

    Attributes:
        samples: those that batches are drawn from, as indices into the data set. Another tensor if they change.
        began: the batch, and the pass, with which the present samples began.

    Raises:
        ConfigError: there are no samples.
    """

    def __init__(
        self,
        data: Samples,
        samples: Tensor,
        batch_size: int,
        collate: Callable[[Sequence[Any]], Batch],
        *,
        seed: int,
        shard: int,
        device: torch.device,
    ) -> None:
        if len(samples) == 0:
            raise ConfigError(f"shard {shard} contains no training sample: use fewer nodes, or a lower task.skew")
        self._data, self.samples, self._collate = data, samples, collate
        self._seed, self._shard, self._device = seed, shard, device
        self._order: tuple[int, Tensor] | None = None
        self._batch_size = batch_size
        self.began = 0, 0

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def per_pass(self) -> int:
        """The number of batches that hold each sample once."""
        return math.ceil(len(self.samples) / self._batch_size)

    def begins_pass(self, number: int) -> bool:
        """Return whether a pass begins with this batch."""
        return (number - self.began[0]) % self.per_pass == 0

    def relist(self, indices: Tensor, number: int) -> None:
        """Use other samples from this batch on, with which a pass begins. The order is as before if they are equal."""
        if torch.equal(indices, self.samples):
            return
        first, turn = self.began
        self.began = number, turn + math.ceil((number - first) / self.per_pass)
        self.samples, self._order = indices, None

    def indices(self, number: int) -> Tensor:
        """The samples of a batch, as indices into the data set."""
        return self.samples[self._places(number)]

    def batch(self, number: int) -> Batch:
        """A batch, on the device."""
        return read_batch(self._data, self.indices(number), self._collate, self._device)

    def at(self, places: Tensor) -> Batch:
        """The batch of the samples at these positions in `samples`, on the device."""
        return read_batch(self._data, self.samples[places], self._collate, self._device)

    def sample(self) -> Batch:
        """Every k-th sample, at most `EVALUATION_BATCH` in all."""
        chosen = self.samples[:: math.ceil(len(self.samples) / EVALUATION_BATCH)]
        return read_batch(self._data, chosen, self._collate, self._device)

    def _places(self, number: int) -> Tensor:
        """Positions within `indices` of a batch's samples.

        A pass uses each sample once, in batches whose sizes differ by at most one. Full batches would leave a rest
        of perhaps a single image, whose noisy gradient would count as much as any other.
        """
        began, turns = self.began
        turn, place = divmod(number - began, self.per_pass)
        count = len(self.samples)
        first, last = (count * p // self.per_pass for p in (place, place + 1))
        return self._order_of(turns + turn)[first:last]

    def _order_of(self, turn: int) -> Tensor:
        if self._order is None or self._order[0] != turn:
            random = shuffler(self._seed, Stream.ORDER, self._shard, turn)
            self._order = turn, torch.from_numpy(random.permutation(len(self.samples)))
        return self._order[1]


def all_batches(
    data: Samples, indices: Tensor | None, collate: Callable[[Sequence[Any]], Batch], device: torch.device
) -> Iterator[Batch]:
    """These samples of a data set in their order, by default all, `EVALUATION_BATCH` at a time."""
    for chosen in torch.split(torch.arange(len(data)) if indices is None else indices, EVALUATION_BATCH):
        yield read_batch(data, chosen, collate, device)


def read_batch(
    data: Samples, indices: Tensor, collate: Callable[[Sequence[Any]], Batch], device: torch.device
) -> Batch:
    """The samples at these indices, as a batch on the device."""
    if type(data) is TensorDataset and getattr(collate, "__func__", None) is Task.collate:
        return on_device([tensor[indices] for tensor in data.tensors], device)  # the same, without a loop over samples
    chosen = indices.tolist()
    several = getattr(data, "__getitems__", None)
    return on_device(collate([data[index] for index in chosen] if several is None else several(chosen)), device)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with every tensor in it on the device."""
    if device.type == "cpu":
        return batch
    match batch:
        case Tensor():
            return batch.to(device)
        case dict():
            return {key: on_device(part, device) for key, part in batch.items()}
        case tuple() if hasattr(batch, "_fields"):  # a named tuple
            return type(batch)(*(on_device(part, device) for part in batch))
        case tuple() | list():
            return type(batch)(on_device(part, device) for part in batch)
    return batch
