"""The settings of training: the values that a trainer is built from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edgenode.tasks.task import RunLength


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The optimiser and what surrounds it. The defaults are the SGD of section 8.2 of the paper.

    A step averages the gradients of `accumulate` batches, and a round has `local_steps` steps. With `precision`
    "bfloat16" the layers compute in it, in training and in evaluation. Parameters and gradients stay float32
    (Micikevicius et al. 2018, Mixed precision training). Gradients longer than `clip_norm` are shortened to it.
    All nodes share the parameters that `shared` names, or all of them if it is empty.
    `loss` "balanced" shifts the logits by the class frequencies of the node (`logit_adjustment`).
    `buffers` "average" lets the last gossip average floating-point buffers, such as BatchNorm statistics.
    With `memory_format` "channels_last" the model gets images whose channels lie side by side in memory. The schema of
    run.toml checks the range of each.
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
    shared: tuple[str, ...] = ()
    precision: Literal["float32", "bfloat16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"

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
