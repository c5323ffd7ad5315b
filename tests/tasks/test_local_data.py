"""Whole data and shards: who gets which samples, and what is not a data set."""

from __future__ import annotations

import pytest
import torch

from edgenode.errors import ConfigError
from edgenode.tasks import local_data
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.local_data import Cut, DataSource
from edgenode.tasks.partition import partition
from edgenode.tasks.task import NodeInfo, Task


class Given(Task):
    """A task whose nodes have these data sets."""

    def __init__(self, **data: object) -> None:
        self._data, self.loads = data, list[str]()

    def train_data(self, node: NodeInfo) -> object:  # type: ignore[override]
        self.loads.append(node.name)
        return self._data[node.name]


class Labelled(list[int]):
    def __init__(self, targets: object) -> None:
        super().__init__(range(len(targets)))  # type: ignore[arg-type]
        self.targets = targets


def test_own_data_is_trained_on_whole() -> None:
    source = DataSource(Given(a=list(range(400)), b=list(range(100))), cut=None)
    nodes = NodeInfo("a"), NodeInfo("b")
    assert [source.load(node) for node in nodes] == [400, 100]
    found = [source.local(node, shard, 2) for shard, node in enumerate(nodes)]
    assert [data.indices.tolist() for data in found] == [list(range(400)), list(range(100))]
    assert [data.shard for data in found] == [0, 1]


def test_shared_data_is_loaded_and_cut_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = []

    def counted(labels: torch.Tensor, shards: int, skew: float, seed: int) -> list[torch.Tensor]:
        cuts.append((shards, skew, seed))
        return partition(labels, shards, skew, seed)

    monkeypatch.setattr(local_data, "partition", counted)
    source = DataSource(ImageTask("digits"), Cut(skew=0.8))
    shards = [source.local(NodeInfo(f"n{i}", seed=3), i, 4) for i in range(4)]
    assert cuts == [(4, 0.8, 3)]
    assert torch.equal(torch.cat([data.indices for data in shards]).sort().values, torch.arange(1442))
    assert len({id(data.train) for data in shards}) == 1
    with pytest.raises(ConfigError, match="shard 4 does not exist"):
        source.local(NodeInfo("n4"), 4, 4)


def test_alpha_selects_a_dirichlet_cut() -> None:
    source = DataSource(ImageTask("digits"), Cut(alpha=0.1))
    assert len({len(source.local(NodeInfo("n"), i, 4).indices) for i in range(4)}) > 1


@pytest.mark.parametrize("targets", [[0, 1] * 50, torch.arange(100) % 2])
def test_cuts_follow_the_targets_of_a_data_set(targets: object) -> None:
    source = DataSource(Given(n=Labelled(targets)), Cut(skew=1.0))
    classes = [{int(targets[i]) for i in source.local(NodeInfo("n"), shard, 2).indices} for shard in range(2)]  # type: ignore[index]
    assert classes == [{0}, {1}]


@pytest.mark.parametrize("data", [list(range(9)), Labelled([{"boxes": []}] * 9), Labelled([0.5] * 9)])
def test_data_without_classes_is_cut_evenly_or_refused(data: object) -> None:
    source = DataSource(Given(n=data), Cut())
    assert sorted(len(source.local(NodeInfo("n"), i, 2).indices) for i in range(2)) == [4, 5]
    with pytest.raises(ConfigError, match="has no attribute targets with the class of each sample"):
        DataSource(Given(n=data), Cut(skew=0.5)).local(NodeInfo("n"), 0, 2)


class Digits(ImageTask):
    """The digits, whose test images nobody may read."""

    def test_data(self, node: NodeInfo) -> None:
        raise AssertionError("the test data is read")


@pytest.mark.parametrize("cut", [Cut(skew=0.8), None])
def test_validation_takes_training_samples_and_no_test_data(cut: Cut | None) -> None:
    nodes = [NodeInfo(f"n{i}", seed=3) for i in range(2)]
    one, other = (DataSource(Digits("digits"), cut, validation=0.2).local(node, 0, 2) for node in nodes)
    held, kept = one.test, one.train
    assert (len(held), len(kept)) == (288, 1154)  # type: ignore[arg-type]
    assert held.targets.bincount().tolist() == [29, 29, 28, 29, 29, 29, 29, 29, 28, 29]  # type: ignore[union-attr]
    assert sorted([*held.indices, *kept.indices]) == list(range(1442))  # type: ignore[union-attr, attr-defined]
    assert held.indices == other.test.indices  # type: ignore[union-attr]
    images, labels = held.__getitems__([5, 7])  # type: ignore[union-attr]
    assert torch.equal(labels, held.targets[[5, 7]])  # type: ignore[union-attr]
    assert torch.equal(images[1], held[7][0])  # type: ignore[index]


def test_seed_chooses_what_is_held_out() -> None:
    source = (DataSource(Digits("digits"), Cut(), 0.2).local(NodeInfo("n", seed=seed), 0, 2) for seed in (3, 4))
    first, second = (data.test.indices for data in source)  # type: ignore[union-attr]
    assert first != second


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=f"task.validation = {share} holds out [09] of 9 training samples"):
        DataSource(Given(n=list(range(9))), None, share).load(NodeInfo("n"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "Given.train_data of n returns no sample"),
        (None, "Given.train_data returns None, but it must be a data set with a length and an index"),
        (iter("ab"), "but it must be a data set with a length and an index"),
    ],
)
def test_what_is_not_a_data_set_is_refused(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataSource(Given(n=data), None).load(NodeInfo("n"))
