"""Endless passes over a loader, with a position."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from edgenode.errors import CheckpointError
from edgenode.mesh.passes import Passes
from edgenode.tasks.packing import pack, unpack

DATA = TensorDataset(torch.arange(10))


def seed(value: int) -> None:
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)


def shuffled() -> Any:
    return DataLoader(DATA, batch_size=3, shuffle=True)


def own_generator() -> Any:
    return DataLoader(DATA, batch_size=3, shuffle=True, generator=torch.Generator().manual_seed(torch.initial_seed()))


def own_sampler() -> Any:
    generator = torch.Generator().manual_seed(torch.initial_seed())
    return DataLoader(DATA, batch_size=3, sampler=RandomSampler(DATA, generator=generator))


def with_workers() -> Any:
    return DataLoader(DATA, batch_size=3, shuffle=True, num_workers=1)


class Keeps:
    """A loader that knows its position."""

    def __init__(self) -> None:
        self.at, self.made = 0, 0

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        self.made += 1
        while self.at < 4:
            self.at += 1
            yield [torch.tensor([self.at])]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def drawn(batches: Iterator[Any], count: int) -> list[Any]:
    """Batches, and what the body of a loop draws from every generator."""
    return [(b[0].tolist(), torch.rand(1).item(), random.random(), np.random.rand()) for b in islice(batches, count)]


@pytest.mark.parametrize("make", [shuffled, own_generator, own_sampler, Keeps, with_workers])
@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_a_restored_position_continues_to_the_bit(make: Any, taken: int) -> None:
    seed(1)
    first = Passes(make())
    batches = first.batches()
    drawn(batches, taken)
    position = unpack("p", pack("p", first.position()))
    expected = drawn(batches, 7)

    seed(2)
    second = Passes(make())
    second.go_to(position)
    assert drawn(second.batches(), 7) == expected


@pytest.mark.parametrize("make", [shuffled, own_generator, own_sampler, Keeps, with_workers])
@pytest.mark.parametrize("taken", [1, 4, 6])
def test_a_loop_under_way_returns_to_the_bit(make: Any, taken: int) -> None:
    seed(1)
    passes = Passes(make())
    batches = passes.batches()
    drawn(batches, taken)
    position = unpack("p", pack("p", passes.position()))
    expected = drawn(batches, 7)
    passes.go_to(position)
    assert drawn(batches, 7) == expected
    passes.go_to(position)
    assert drawn(batches, 2) == expected[:2]


def test_a_pass_ends_with_the_loader() -> None:
    passes = Passes(shuffled())
    assert passes.size == (10, 3)
    seen = [(passes.number, passes.taken) for _ in islice(passes.batches(), 6)]
    assert seen == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1), (1, 2)]


def test_a_position_that_is_current_changes_nothing() -> None:
    passes = Passes(shuffled())
    batches = passes.batches()
    next(batches)
    passes.go_to(passes.position())
    assert sorted(x for batch in islice(batches, 3) for x in batch[0].tolist()) != list(range(10))


def test_a_position_to_begin_at_can_be_saved_again() -> None:
    seed(1)
    first = Passes(shuffled())
    batches = first.batches()
    drawn(batches, 6)
    second, third = Passes(shuffled()), Passes(shuffled())
    second.go_to(first.position())
    expected = drawn(batches, 3)
    seed(2)
    third.go_to(second.position())
    assert drawn(third.batches(), 3) == expected


def test_a_shorter_loader_is_refused() -> None:
    first = Passes(shuffled())
    list(islice(first.batches(), 4))
    second = Passes(DataLoader(TensorDataset(torch.arange(3)), batch_size=3))
    second.go_to(first.position())
    with pytest.raises(CheckpointError, match="at batch 4 of a pass, but this loader has only 1"):
        next(second.batches())


def test_a_stream_has_no_length() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    assert Passes(DataLoader(Stream(), batch_size=2)).size == (1, 1)
    assert Passes(iter([1])).size == (1, 1)
    assert Passes(iter([1])).samples is None


def with_sampler(sampler: Any) -> Any:
    return DataLoader(DATA, batch_size=3, sampler=sampler)


@pytest.mark.parametrize(
    ("loader", "samples", "size"),
    [
        (shuffled(), None, (10, 3)),
        (with_sampler(SubsetRandomSampler(range(4))), None, (4, 3)),
        (with_sampler(RandomSampler(DATA, num_samples=600)), None, (10, 3)),
        (DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(range(4)), 2, False)), None, (4, 2)),
        ([1, 2, 3], None, (3, 1)),
        ([1, 2, 3], 30, (30, 10)),
        (iter([1]), 30, (30, 30)),
        (shuffled(), 4, (4, 3)),
    ],
)
def test_a_pass_has_as_many_samples_as_it_can_draw(loader: Any, samples: int | None, size: tuple[int, int]) -> None:
    assert Passes(loader, samples).size == size
