"""A task with BatchNorm, whose nodes see data at different places."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from edgenode import NodeInfo, Task


class Normed(Task):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    def train_data(self, node: NodeInfo) -> TensorDataset:
        place = int(node.name[-1])
        x = torch.randn(96, 4, generator=torch.Generator().manual_seed(place)) + place
        return TensorDataset(x, (x[:, 0] > place).long())

    def test_data(self, node: NodeInfo) -> TensorDataset:
        return self.train_data(node)


class WithOwnHeads(Normed):
    """Each node has a head of another size, or ``changes`` another layer."""

    def __init__(self, changes: int = 3) -> None:
        self._changes = changes

    def own_part(self, model: nn.Module, node: NodeInfo) -> None:
        assert isinstance(model, nn.Sequential)
        size = 2 + int(node.name[-1])
        model[self._changes] = nn.Linear(6, size) if self._changes == 3 else nn.Linear(4, 6 + size)
