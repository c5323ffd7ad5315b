"""A task with a small model on the digits, and its trainer, for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength
from edgenode.tasks.trainer import LocalStep, TaskTrainer

NODE = NodeInfo("node-0")


def small_net() -> nn.Module:
    """A model with everything that carries state or draws numbers: BatchNorm, dropout and a frozen parameter."""
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )
    net.register_parameter("frozen", nn.Parameter(torch.ones(3), requires_grad=False))
    return net


class Digits(ImageTask):
    """The digits with a model of one's own."""

    def __init__(self, make_model: Callable[[], nn.Module] = small_net, augment: bool = False) -> None:
        super().__init__("digits", augment=augment)
        self.model = make_model


def digits_trainer(
    indices: torch.Tensor, task: ImageTask, settings: TrainSettings, seed: int = 0, shard: int = 0, rounds: int = 100
) -> TaskTrainer:
    data = LocalData(task.train_data(NODE), task.test_data(NODE), indices, shard)
    per_epoch = -(-len(indices) // settings.batch_size)
    return TaskTrainer(task, data, settings, RunLength(rounds, per_epoch), seed=seed)


def small_trainer(
    seed: int = 0, shard: int = 0, count: int = 100, augment: bool = False, **settings: object
) -> TaskTrainer:
    chosen = TrainSettings(**{"batch_size": 16, "learning_rate": 0.05, **settings})
    indices = torch.arange(shard * count, (shard + 1) * count)
    return digits_trainer(indices, Digits(augment=augment), chosen, seed, shard)


def local_update(step: LocalStep, z: np.ndarray) -> np.ndarray:
    """What a step from z has changed, [size]."""
    return step.vector if step.is_difference else step.vector - z


def run(trainer: TaskTrainer, z: np.ndarray, rounds: range) -> np.ndarray:
    for t in rounds:
        z = z + local_update(trainer.train(t, z.copy()), z)
    return z
