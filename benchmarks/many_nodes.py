"""A task for a simulation of very many nodes: points around ten centres, and a network of 6,010 parameters.

    cd benchmarks
    edgenode simulate --set task.entry=many_nodes:Points --set run.nodes=10000 --set run.rounds=10 --set run.threads=1 \
        --set algorithm.name=sp --set task.data=cut --set task.batch_size=4
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgenode import NodeInfo, Task

FEATURES, CLASSES = 64, 10


class Points(Task):
    """Four training samples for each node, and 1,000 test samples."""

    draws_from_torch_alone = True

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 80), nn.ReLU(), nn.Linear(80, CLASSES))

    def train_data(self, node: NodeInfo) -> TensorDataset:
        return _points(4 * node.nodes, node.seed)

    def test_data(self, node: NodeInfo) -> TensorDataset:
        return _points(1000, node.seed + 1)


def _points(count: int, seed: int) -> TensorDataset:
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(seed)
    labels: Tensor = torch.randint(CLASSES, (count,), generator=random)
    return TensorDataset(centres[labels] + 2 * torch.randn(count, FEATURES, generator=random), labels)
