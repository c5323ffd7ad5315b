"""A trainer of a small model on the digits, for the tests of this package."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgenode.tasks import datasets
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.trainer import Trainer


def small_net() -> nn.Module:
    """A model with everything that carries state or draws numbers: BatchNorm, dropout and a frozen parameter."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )
    net.register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
    return net


def small_trainer(seed: int = 0, shard: int = 0, count: int = 100, **settings: object) -> Trainer:
    chosen = TrainSettings(**{"batch_size": 16, "learning_rate": 0.05, **settings})
    indices = torch.arange(shard * count, (shard + 1) * count)
    return Trainer(datasets.load("digits"), indices, small_net, chosen, seed=seed, shard=shard)


def run(trainer: Trainer, z: np.ndarray, rounds: range) -> np.ndarray:
    for t in rounds:
        z = z + trainer.train(t, z).local_update
    return z
