"""The data of one node: all that its task loads for it, or its shard of data that all nodes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Subset

from edgenode.errors import ConfigError
from edgenode.tasks.partition import dirichlet, held_out, partition
from edgenode.tasks.task import NodeInfo, Samples, Task


@dataclass(frozen=True, slots=True)
class Cut:
    """The cut of shared data into shards: by a Dirichlet distribution if `alpha` is set, else by `skew`."""

    skew: float = 0.0
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class LocalData:
    """The training and test data of one node.

    Attributes:
        indices: the samples of `train` that this node trains on.
        shard: the node's number, which its random numbers depend on.
        classes: the number of classes, if the data was cut by them.
        own: the data belongs to this node only. If it grows, the node trains on new samples.
    """

    train: Samples
    test: Samples | None
    indices: Tensor
    shard: int
    classes: int = 0
    own: bool = False

    @classmethod
    def whole(cls, train: Samples, test: Samples | None = None, shard: int = 0) -> LocalData:
        """The data of a node that trains on all of it."""
        return cls(train, test, torch.arange(len(train)), shard, own=True)


class DataSource:
    """Loads the data of a task in one process, for one node or for all nodes of a simulation.

    Args:
        cut: the cut of one data set for all nodes. None if each has its own.
        validation: the share of the training data that takes the place of the test data, which is then not loaded.
    """

    def __init__(self, task: Task, cut: Cut | None, validation: float = 0.0) -> None:
        self._task, self._cut, self._validation = task, cut, validation
        self._loaded: dict[str, tuple[Samples, Samples | None]] = {}  # node -> train, test; shared data once, under ""
        self._shards: tuple[object, list[Tensor]] = None, []  # what they were cut for, and the shards
        self._classes = 0

    def load(self, node: NodeInfo) -> int:
        """Load the data of a node, and return its number of training samples. Shared data is loaded once.

        Raises:
            ConfigError: there is no training sample, or what the task returns is not a data set.
        """
        key = node.name if self._cut is None else ""
        if key not in self._loaded:
            self._loaded[key] = self._read(node)
        return len(self._loaded[key][0])

    def _read(self, node: NodeInfo) -> tuple[Samples, Samples | None]:
        place = type(self._task).__name__
        train = self._task.train_data(node)
        _check(train, f"{place}.train_data", node)
        if self._validation:
            labels = labels_of(train)
            labels = torch.zeros(len(train), dtype=torch.int64) if labels is None else labels
            kept, held = held_out(labels, self._validation, node.seed)
            return _Part(train, kept), _Part(train, held)
        test = self._task.test_data(node)
        if test is not None:
            _check(test, f"{place}.test_data", node)
        return train, test

    def local(self, node: NodeInfo, shard: int, shards: int) -> LocalData:
        """The data of one of the run's nodes. ``shard`` is its number among them.

        Raises:
            ConfigError: as ``load``, or shared data cannot be cut like that.
        """
        self.load(node)
        if self._cut is None:
            return LocalData.whole(*self._loaded[node.name], shard)
        if not 0 <= shard < shards:
            raise ConfigError(f"shard {shard} does not exist: there are {shards}, counted from 0")
        train, test = self._loaded[""]
        indices = self._cut_into(train, self._cut, shards, node.seed)[shard]
        return LocalData(train, test, indices, shard, self._classes)

    def _cut_into(self, train: Samples, cut: Cut, shards: int, seed: int) -> list[Tensor]:
        if self._shards[0] != (shards, seed):
            labels = labels_of(train)
            if labels is None:
                labels = _one_class(train, cut)
            if cut.alpha is None:
                made = partition(labels, shards, cut.skew, seed)
            else:
                made = dirichlet(labels, shards, cut.alpha, seed)
            self._shards, self._classes = ((shards, seed), made), len(torch.bincount(labels).nonzero())
        return self._shards[1]


class _Part(Subset[object]):
    """Some samples of a data set, with their classes if it has them. It does not grow."""

    def __init__(self, data: Samples, indices: Tensor) -> None:
        super().__init__(data, indices.tolist())  # type: ignore[arg-type]
        labels = labels_of(data)
        self.targets = None if labels is None else labels[indices]


def _check(data: object, place: str, node: NodeInfo) -> None:
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ConfigError(f"{place} returns {data!r}, but it must be a data set with a length and an index")
    if len(data) == 0:
        raise ConfigError(f"{place} of {node.name} returns no sample")


def labels_of(train: Samples) -> Tensor | None:
    """The class of every sample, [N]. None if the data set does not have them."""
    try:
        labels = torch.as_tensor(getattr(train, "targets", None))
        if labels.shape == (len(train),) and not labels.is_floating_point():
            return labels
    except (TypeError, ValueError, RuntimeError):
        pass
    return None


def _one_class(train: Samples, cut: Cut) -> Tensor:
    """One class for all samples, if the cut does not need classes."""
    if cut != Cut():
        raise ConfigError(
            "task.skew and task.alpha cut by class, but the training data has no attribute targets "
            "with the class of each sample"
        )
    return torch.zeros(len(train), dtype=torch.int64)
