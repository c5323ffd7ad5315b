"""The settings of training: the values that a trainer is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgenode.errors import ConfigError
from edgenode.tasks.task import RunLength


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The optimiser and what surrounds it. The defaults are the SGD of section 8.2 of the paper.

    A step averages the gradients of `accumulate` batches, and a round has `local_steps` steps. With `precision`
    "bfloat16" the layers compute in it, in training and in evaluation. Parameters and gradients stay float32
    (Micikevicius et al. 2018, Mixed precision training). Gradients longer than `clip_norm` are shortened to it.
    `loss` "balanced" shifts the logits by the class frequencies of the node (`logit_adjustment`).
    `buffers` "average" lets the last gossip average floating-point buffers, such as BatchNorm statistics.
    With `memory_format` "channels_last" the model gets images whose channels lie side by side in memory.

    Raises:
        ConfigError: a value is out of its range.
    """

    batch_size: int = 32
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["steps", "cosine", "trapezoid"] = "steps"
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_epochs: int = 0
    accumulate: int = 1
    local_steps: int | Literal["auto"] = 1
    clip_norm: float | None = None
    loss: Literal["cross_entropy", "balanced"] = "cross_entropy"
    buffers: Literal["local", "average"] = "local"
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 < self.decay <= 1, "decay", self.decay, "above 0 and at most 1")
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "at least 0")
        _require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        fits = self.local_steps == "auto" or self.local_steps >= 1
        _require(fits, "local_steps", self.local_steps, 'at least 1, or "auto"')
        _require(self.clip_norm is None or 0 < self.clip_norm < math.inf, "clip_norm", self.clip_norm, "above 0")
        ascending = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        _require(ascending, "milestones", list(self.milestones), "ascending epochs, each above 0")

    def rate(self, base: float, t: int, run: RunLength) -> float:
        """The learning rate of round t, where `base` is the rate without a schedule.

        With "steps" it is multiplied by `decay` at each of `milestones`, in epochs of the run. With "cosine" it falls
        along half a cosine to 0 at the end of the run (Loshchilov and Hutter 2017). With "trapezoid" it stays for half
        of the run, and then falls linearly to 0 at its end (Hägele et al. 2024). A round has the rate of its middle.
        During `warmup_epochs` it rises linearly (Goyal et al. 2017).
        """
        rounds = max(1, run.rounds)
        if self.schedule == "cosine":
            rate = base * (1 + math.cos(math.pi * min(t, run.rounds) / rounds)) / 2
        elif self.schedule == "trapezoid":
            rate = base * min(1.0, max(0.0, 2 - (2 * t + 1) / rounds))
        else:
            epoch = t // run.rounds_per_epoch
            rate = base * self.decay ** sum(milestone <= epoch for milestone in self.milestones)
        warmup = self.warmup_epochs * run.rounds_per_epoch
        return rate * (t + 1) / warmup if t < warmup else rate


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {value}, but must be {allowed}")
