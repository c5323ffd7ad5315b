"""Which samples each round uses, and how they are augmented and normalised."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset, default_collate

from edgenode.tasks.batches import all_batches, on_device, read_batch
from edgenode.tasks.seeding import seeded
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import Batch, NodeInfo, Task
from edgenode.tasks.trainer import TaskTrainer
from tests.tasks.small_trainer import Digits, digits_trainer, small_trainer


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 100])
def test_each_epoch_uses_every_sample_once_in_even_batches(count: int) -> None:
    trainer = small_trainer(shard=1, count=count)
    epochs = []
    for epoch in range(2):
        first = epoch * trainer.batches.per_pass
        batches = [trainer.batches.indices(first + place) for place in range(trainer.batches.per_pass)]
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= 16 and max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(count, 2 * count))
        epochs.append(torch.cat(batches))
    assert count < 15 or not torch.equal(*epochs)


def test_shards_and_seeds_have_different_orders() -> None:
    orders = [small_trainer(seed=s).batches.indices(0).tolist() for s in (0, 1)]
    orders.append((small_trainer(shard=1).batches.indices(0) - 100).tolist())
    assert len({tuple(order) for order in orders}) == 3


class Plain(Task):
    def model(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def train_data(self, node: NodeInfo) -> TensorDataset:
        return TensorDataset(torch.rand(9, 2, 3), torch.arange(9), torch.rand(9, dtype=torch.float64))


class Listed(Plain):
    """Its batches are samples."""

    def collate(self, samples: Sequence[Any]) -> Batch:
        return list(samples)


class Doubled(TensorDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(2 * tensor for tensor in super().__getitem__(index))


def test_tensors_are_read_at_once_as_if_one_by_one() -> None:
    task, chosen, cpu = Plain(), torch.tensor([4, 0, 7]), torch.device("cpu")
    data = task.train_data(NodeInfo("node-0"))
    for given in (data, Doubled(*data.tensors)):
        ours, theirs = read_batch(given, chosen, task.collate, cpu), default_collate([given[i] for i in (4, 0, 7)])
        assert type(ours) is type(theirs)
        assert all(
            a.equal(b) and a.dtype == b.dtype and a.stride() == b.stride() for a, b in zip(ours, theirs, strict=True)
        )
    assert len(read_batch(data, chosen, Listed().collate, cpu)[0]) == 3


def prepared(trainer: TaskTrainer, number: int, seed: int = 0) -> torch.Tensor:
    with seeded(seed):
        return trainer._task.prepared(trainer.batches.batch(number))[0]


def test_augmentation_changes_the_batch_by_its_seed() -> None:
    plain, augmented = small_trainer(), small_trainer(augment=True)
    one, again, other = (prepared(augmented, 0, value) for value in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, prepared(plain, 0, 1))


def test_each_round_and_shard_draws_its_own_randomness() -> None:
    def losses(shard: int) -> list[float]:
        # A shard of one sample: every round has the same batch, so only the draws can differ.
        trainer = digits_trainer(torch.arange(1), Digits(augment=True), TrainSettings(), shard=shard)
        return [trainer.train(t, trainer.initial()).loss for t in range(6)]

    assert losses(0) == losses(0)
    assert len({*losses(0), *losses(1)}) == 12


def test_batches_are_normalised_per_channel() -> None:
    trainer = small_trainer(count=1000, batch_size=1000)
    images = prepared(trainer, 0)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02


def test_plain_data_sets_are_stacked_and_read_to_the_end() -> None:
    data = [(torch.full((2,), float(i)), i % 3) for i in range(130)]
    first, rest = all_batches(data, None, Task().collate, torch.device("cpu"))
    assert (first[0].shape, rest[0].shape) == ((128, 2), (2, 2))
    assert torch.equal(torch.cat([first[1], rest[1]]), torch.arange(130) % 3)


def test_every_tensor_of_a_batch_goes_to_the_device() -> None:
    Pair = namedtuple("Pair", "left right")
    batch = {"x": [torch.ones(1), (torch.ones(2), "text")], "y": Pair(torch.ones(3), 4)}
    moved = on_device(batch, torch.device("meta"))
    assert moved["x"][0].is_meta and moved["x"][1][0].is_meta and moved["y"].left.is_meta
    assert (moved["x"][1][1], moved["y"].right, type(moved["y"])) == ("text", 4, Pair)
