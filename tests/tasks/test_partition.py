"""Partitions: the paper's example, and the invariants of every partition."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.errors import ConfigError
from edgenode.tasks.datasets import load
from edgenode.tasks.partition import dirichlet, partition

label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=120)
seeds = st.integers(-(2**63), 2**64)


def labels_of(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def assert_exact_cover(shards: list[torch.Tensor], count: int) -> None:
    assert torch.equal(torch.cat(shards).sort().values, torch.arange(count))
    assert all(len(shard) > 0 for shard in shards)
    assert all((shard.diff() > 0).all() for shard in shards)


def test_example_of_section_5() -> None:
    """ "100 examples containing 10 examples each from 10 different classes ... skew of 0.8 amongst 4 nodes ...
    First 20 examples from the sorted data are assigned to node 1, the next 20 to node 2 and so on. The
    remaining 20% of the data is randomly distributed across the 4 nodes."
    """
    labels = labels_of([label for label in range(10) for _ in range(10)])
    shards = partition(labels, 4, 0.8, seed=1)
    assert_exact_cover(shards, 100)
    # Eight of each class are sorted, so the twenty of a node span two and a half classes.
    owed = [{0: 8, 1: 8, 2: 4}, {2: 4, 3: 8, 4: 8}, {5: 8, 6: 8, 7: 4}, {7: 4, 8: 8, 9: 8}]
    for shard, least in zip(shards, owed, strict=True):
        have = Counter(labels[shard].tolist())
        assert len(shard) == 25
        assert all(have[label] >= count for label, count in least.items())
    # The 20 others, 2 of each class, are spread over the nodes, 5 each.
    left = sum((Counter(labels[s].tolist()) - Counter(o) for s, o in zip(shards, owed, strict=True)), Counter())
    assert left == Counter(dict.fromkeys(range(10), 2))


def test_skew_1_sorts_everything_and_skew_0_nothing() -> None:
    labels = load("digits").train_labels
    sorted_shards = partition(labels, 4, 1.0, seed=0)
    assert all(int(labels[a].max()) <= int(labels[b].min()) for a, b in pairwise(sorted_shards))
    even = partition(labels, 4, 0.0, seed=0)
    assert all(labels[shard].bincount().min() >= 20 for shard in even)


@settings(max_examples=60, deadline=None)
@given(label_lists, st.data(), st.floats(0, 1), seeds)
def test_skewed_shards_cover_every_index_once_and_evenly(
    values: list[int], data: st.DataObject, skew: float, seed: int
) -> None:
    shards = data.draw(st.integers(1, len(values)))
    cut = partition(labels_of(values), shards, skew, seed)
    assert_exact_cover(cut, len(values))
    sizes = [len(shard) for shard in cut]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=60, deadline=None)
@given(label_lists, st.data(), st.floats(1e-9, 1e6), seeds)
def test_dirichlet_shards_cover_every_index_once(
    values: list[int], data: st.DataObject, alpha: float, seed: int
) -> None:
    shards = data.draw(st.integers(1, len(values)))
    assert_exact_cover(dirichlet(labels_of(values), shards, alpha, seed), len(values))


def test_partitions_depend_on_the_seed_alone() -> None:
    labels = load("digits").train_labels
    for divide in (lambda seed: partition(labels, 5, 0.5, seed), lambda seed: dirichlet(labels, 5, 0.3, seed)):
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        first, again, other = divide(7), divide(7), divide(8)
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_small_alpha_concentrates_classes() -> None:
    labels = load("digits").train_labels

    def largest_share(alpha: float) -> float:
        counts = torch.stack([labels[s].bincount(minlength=10) for s in dirichlet(labels, 4, alpha, seed=0)])
        return float((counts.max(dim=0).values / counts.sum(dim=0)).mean())

    assert largest_share(0.05) > 0.8
    assert largest_share(1000.0) < 0.3


@pytest.mark.parametrize("shards", [0, 4])
def test_impossible_number_of_shards_is_refused(shards: int) -> None:
    with pytest.raises(ConfigError, match=f"{shards} shards were asked for"):
        partition(labels_of([0, 1, 2]), shards, 0.0, seed=0)
