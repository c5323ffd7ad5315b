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
