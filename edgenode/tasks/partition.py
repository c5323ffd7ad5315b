"""Partitions a training set into one shard for each node, by its labels only.

Both partitions are pure functions of their arguments. Every node computes all shards, gets the same result, and takes
its own. Each index lies in exactly one shard, no shard is empty, and the indices of a shard ascend. `held_out` takes
samples for validation from the training set in the same way, before it is partitioned.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenode.errors import ConfigError
from edgenode.tasks.seeding import Stream, shuffler

_Indices: TypeAlias = NDArray[np.int64]


def partition(labels: Tensor, shards: int, skew: float, seed: int) -> list[Tensor]:
    """Partition with the paper's data skew (section 5).

    1. Draw a share `skew` of each class. Sort it by label and divide it into `shards` contiguous runs, one per node.
    2. Distribute the rest at random. Each shard is filled up to an even share of all samples.

    Shard sizes differ by at most one. Raises ConfigError for too many shards.
    """
    _check_shards(labels, shards)
    random = shuffler(seed, Stream.PARTITION)
    by_class = [random.permutation(members) for members in _members(labels)]
    counts = [round(skew * len(members)) for members in by_class]
    ordered = np.concatenate([members[:count] for members, count in zip(by_class, counts, strict=True)])
    rest = np.concatenate([members[count:] for members, count in zip(by_class, counts, strict=True)])
    runs = np.array_split(ordered, shards)
    # Longer runs get fewer of the rest, so that sizes differ by at most one.
    even = np.array_split(np.arange(len(labels)), shards)
    wanted = [len(share) - len(run) for share, run in zip(even, runs, strict=True)]
    spread = np.split(random.permutation(rest), np.cumsum(wanted)[:-1])
    return [_tensor(np.concatenate(both)) for both in zip(runs, spread, strict=True)]


def dirichlet(labels: Tensor, shards: int, alpha: float, seed: int) -> list[Tensor]:
    """Divide each class in proportions drawn from Dirichlet(alpha, ..., alpha) (Hsu et al. 2019).

    With a small alpha each class lies on few nodes. Shard sizes differ, and so do the nodes' rounds per epoch. Raises
    ConfigError for too many shards.
    """
    _check_shards(labels, shards)
    random = shuffler(seed, Stream.PARTITION)
    parts: list[list[_Indices]] = [[] for _ in range(shards)]
    for members in _members(labels):
        shares = _proportions(random, alpha, shards)
        cuts = np.floor(np.cumsum(shares)[:-1] * len(members) + 0.5).astype(np.int64)
        for part, piece in zip(parts, np.split(random.permutation(members), cuts), strict=True):
            part.append(piece)
    return [_tensor(shard) for shard in _none_empty([np.concatenate(part) for part in parts])]


def held_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divide samples into those that are trained on, and a share of each class that is held out.

    Raises:
        ConfigError: one of the two would be empty.
    """
    random = shuffler(seed, Stream.VALIDATION)
    by_class = [random.permutation(members) for members in _members(labels)]
    counts = [round(share * len(members)) for members in by_class]
    held = np.concatenate([members[:count] for members, count in zip(by_class, counts, strict=True)])
    kept = np.concatenate([members[count:] for members, count in zip(by_class, counts, strict=True)])
    if not len(held) or not len(kept):
        raise ConfigError(
            f"task.validation = {share:g} holds out {len(held)} of {len(labels)} training samples, "
            "but some must be held out, and some must remain"
        )
    return _tensor(kept), _tensor(held)


def _check_shards(labels: Tensor, shards: int) -> None:
    if shards < 1:
        raise ConfigError(f"{shards} shards were asked for, but at least one is needed")
    if shards > len(labels):
        raise ConfigError(f"{shards} shards were asked for, but there are only {len(labels)} training samples")


def _members(labels: Tensor) -> list[_Indices]:
    """Return the indices of each class, classes ascending."""
    values = labels.numpy()
    return [np.flatnonzero(values == value) for value in np.unique(values)]


def _proportions(random: np.random.RandomState, alpha: float, shards: int) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = random.dirichlet(np.full(shards, alpha))
    if np.isfinite(shares).all() and shares.sum() > 0.5:
        return shares
    # Every gamma draw underflowed. In the limit alpha -> 0 one shard gets everything.
    alone = np.zeros(shards)
    alone[random.randint(shards)] = 1.0
    return alone


def _none_empty(shards: list[_Indices]) -> list[_Indices]:
    """Move one sample from the largest shard to each empty one, because a node without data cannot train."""
    for place, shard in enumerate(shards):
        if len(shard) == 0:
            donor = max(range(len(shards)), key=lambda j: len(shards[j]))
            shards[place], shards[donor] = shards[donor][-1:], shards[donor][:-1]
    return shards


def _tensor(indices: _Indices) -> Tensor:
    return torch.from_numpy(np.sort(indices))
