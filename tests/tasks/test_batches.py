"""Which samples each round uses, and how they are augmented and normalised."""

from __future__ import annotations

import pytest
import torch

from edgenode.tasks import datasets
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.trainer import Trainer
from tests.tasks.small_trainer import small_net, small_trainer


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 100])
def test_each_epoch_uses_every_sample_once_in_even_batches(count: int) -> None:
    trainer = small_trainer(shard=1, count=count)
    epochs = []
    for epoch in range(2):
        first = epoch * trainer.rounds_per_epoch
        batches = [trainer.batches.indices(first + place) for place in range(trainer.rounds_per_epoch)]
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= 16 and max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat(batches).sort().values, torch.arange(count, 2 * count))
        epochs.append(torch.cat(batches))
    assert count < 15 or not torch.equal(*epochs)


def test_shards_and_seeds_have_different_orders() -> None:
    orders = [small_trainer(seed=s).batches.indices(0).tolist() for s in (0, 1)]
    orders.append((small_trainer(shard=1).batches.indices(0) - 100).tolist())
    assert len({tuple(order) for order in orders}) == 3


def test_augmentation_changes_the_batch_by_its_seed() -> None:
    plain, augmented = small_trainer(), small_trainer(augment=True)
    one, again, other = (augmented.batches.batch(0, value)[0] for value in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, plain.batches.batch(0, 1)[0])


def test_each_round_and_shard_draws_its_own_randomness() -> None:
    def losses(shard: int) -> list[float]:
        settings = TrainSettings(augment=True)
        # A shard of one sample: every round has the same batch, so only the draws can differ.
        trainer = Trainer(datasets.load("digits"), torch.arange(1), small_net, settings, seed=0, shard=shard)
        return [trainer.train(t, trainer.initial()).loss for t in range(6)]

    assert losses(0) == losses(0)
    assert len({*losses(0), *losses(1)}) == 12


def test_batches_are_normalised_per_channel() -> None:
    trainer = small_trainer(count=1000, batch_size=1000)
    images, _ = trainer.batches.batch(0, 0)
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
