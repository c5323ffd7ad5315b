"""What a neighbour learns of the samples of a node's first step, from its first push and the common initial model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenode_lab.privacy import class_counts, inversion, victims
from edgenode_lab.privacy.gradient_inversion import reconstructed
from edgenode_lab.privacy.shadows import Seen


@dataclass(frozen=True, slots=True)
class FirstRound:
    """The result over all pushes.

    A digit is identified if a guess correlates with it more than with any other digit of the training data.

    Attributes:
        digits: the digits that were trained on.
        analytic: those that the change of the first layer identifies.
        optimised: those that batches identify whose gradient is like the message.
        correlation: the mean over the pushes of the best correlation of any guess with a digit of the batch.
        classes: the mean share of the batch whose classes the estimate has right.
        without: the same share for the estimate that has no message.
    """

    digits: int
    analytic: int
    optimised: int
    correlation: float
    classes: float
    without: float


@dataclass(frozen=True)
class _Push:
    """A first push, and the truth: images [batch, pixels] and the samples of each class [classes]."""

    change: np.ndarray
    images: victims.Vectors
    counts: np.ndarray


def attack(runs: Sequence[Seen], pool: victims.Pool, everything: victims.Vectors, learning_rate: float) -> FirstRound:
    """Attack the first push of every node in every run.

    Args:
        pool: the digits of the runs.
        everything: all digits that the attacker chooses from, [digits, pixels].
        learning_rate: that of the step.
    """
    initial, pushes = runs[0].initial, _pushes(runs, pool)
    batch, pixels = pushes[0].images.shape
    outputs = np.exp(victims.logits(initial, everything))
    probabilities = (outputs / outputs.sum(axis=1, keepdims=True)).mean(axis=0)

    def estimate(last_bias: victims.Vectors) -> np.ndarray:
        return class_counts.estimate(last_bias, probabilities, batch, learning_rate)

    layers = [victims.tensors(push.change, pixels) for push in pushes]
    counts = [estimate(last_bias) for *_, last_bias in layers]
    unknown = estimate(np.zeros(victims.CLASSES))
    classes = np.array([np.repeat(np.arange(victims.CLASSES), count) for count in counts])
    bounds = float(everything.min()), float(everything.max())
    optimised = reconstructed(np.array([push.change for push in pushes]), initial, classes, bounds)
    analytic = [inversion.directions(weight)[:batch] for weight, *_ in layers]
    truths = [push.images for push in pushes]

    def identified(guesses: Iterable[victims.Vectors]) -> int:
        return sum(inversion.identified(g, true, everything) for g, true in zip(guesses, truths, strict=True))

    return FirstRound(
        len(pushes) * batch,
        identified(analytic),
        identified(optimised),
        _mean(
            max(inversion.best_correlation(a, true), inversion.best_correlation(o, true))
            for a, o, true in zip(analytic, optimised, truths, strict=True)
        ),
        _mean(class_counts.agreement(count, push.counts) for count, push in zip(counts, pushes, strict=True)),
        _mean(class_counts.agreement(unknown, push.counts) for push in pushes),
    )


def _pushes(runs: Sequence[Seen], pool: victims.Pool) -> list[_Push]:
    images, labels, owners = pool.images, pool.labels.numpy(), pool.owners()
    return [
        _Push(change, images[chosen], np.bincount(labels[chosen], minlength=victims.CLASSES))
        for seen in runs
        for number, change in enumerate(seen.first)
        if (chosen := seen.members & (owners == number)).any()
    ]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
