"""edgenode: the same work as a task of one's own. `EDGENODE_PEERS_FOLDER` names the folder of the job."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn
from torch.utils.data import TensorDataset
from work import Job, Record, build, samples

import edgenode


class Work(edgenode.Task):
    """The model and the shard of a rank. The name of its node ends with it."""

    draws_from_torch_alone = True

    def __init__(self) -> None:
        self._job = Job.read(Path(os.environ["EDGENODE_PEERS_FOLDER"]))
        self._evaluations = 0

    def model(self) -> nn.Module:
        return build(self._job.model)

    def train_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        rank = node.name.removeprefix("n")
        self._record = Record(int(rank), self._job)
        return TensorDataset(*samples(self._job, rank))

    def test_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        return TensorDataset(*samples(self._job, "test"))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self._record.begin()
        return super().loss(model, batch)

    def evaluate(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float | None:
        with self._record.evaluation():
            accuracy = super().evaluate(model, batches)
        self._evaluations += 1
        if accuracy is not None:
            self._record.add(self._evaluations * self._job.evaluate_every, accuracy)
        return accuracy
