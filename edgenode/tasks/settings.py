"""What is trained on what, and how: the values a trainer is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from edgenode.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """SGD as in section 8.2 of the paper. At each of `milestones`, in local epochs, the learning rate is multiplied by
    `decay`.

    During `warmup_epochs` the learning rate rises linearly (Goyal et al. 2017). With `precision` "bfloat16" the layers
    compute in it, in training and in evaluation. Parameters and gradients stay float32 (Micikevicius et al. 2018, Mixed
    precision training).

    Raises:
        ConfigError: a value is out of its range.
    """

    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_epochs: int = 0
    augment: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 < self.decay <= 1, "decay", self.decay, "above 0 and at most 1")
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "at least 0")
        ascending = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        _require(ascending, "milestones", list(self.milestones), "ascending epochs, each above 0")

    def learning_rate_at(self, t: int, rounds_per_epoch: int) -> float:
        """The learning rate of round t."""
        epoch = t // rounds_per_epoch
        passed = sum(milestone <= epoch for milestone in self.milestones)
        rate = self.learning_rate * self.decay**passed
        warmup = self.warmup_epochs * rounds_per_epoch
        return rate * (t + 1) / warmup if t < warmup else rate


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {value}, but must be {allowed}")


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Data set, model and the partition of the data: by a Dirichlet distribution if `alpha` is set, else by `skew`."""

    dataset: str = "digits"
    data_dir: str | None = None
    model: str = "small-cnn"
    norm: str = "batch"
    skew: float = 0.0
    alpha: float | None = None
    train: TrainSettings = field(default_factory=TrainSettings)
