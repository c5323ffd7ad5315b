"""What a neighbour learns of the samples of a node's first step, from its first push and the common initial model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenode_lab.privacy import class_counts, inversion, victims
from edgenode_lab.privacy.shadows import Seen


@dataclass(frozen=True, slots=True)
class FirstRound:
    """The result over all pushes.

    Attributes:
        identified: the digits that a guess correlates with more than with any other digit of the training data.
        digits: the digits that were trained on.
        correlation: the mean over the pushes of the best correlation of a guess with a digit of the batch.
        classes: the mean share of the batch whose classes the estimate has right.
        without: the same share for the estimate that has no message.
    """

    identified: int
    digits: int
    correlation: float
    classes: float
    without: float


def attack(runs: Sequence[Seen], pool: victims.Pool, everything: victims.Vectors, learning_rate: float) -> FirstRound:
    """Attack the first push of every node in every run.

    Args:
        pool: the digits of the runs.
        everything: all digits that the attacker chooses from, [digits, pixels].
        learning_rate: that of the step.
    """
    images = pool.images
    results = [
        _attack(change, seen.initial, images[chosen], pool.labels.numpy()[chosen], everything, learning_rate)
        for seen in runs
        for number, change in enumerate(seen.first)
        if (chosen := seen.members & (pool.owners() == number)).any()
    ]
    found, digits, correlations, classes, without = (list(values) for values in zip(*results, strict=True))
    return FirstRound(sum(found), sum(digits), _mean(correlations), _mean(classes), _mean(without))


def _attack(
    change: np.ndarray, initial: np.ndarray, images: victims.Vectors, labels: np.ndarray,
    everything: victims.Vectors, learning_rate: float,
) -> tuple[int, int, float, float, float]:  # fmt: skip
    batch, pixels = images.shape
    weight, _, _, last_bias = victims.tensors(change, pixels)
    guesses = inversion.directions(weight)[:batch]
    outputs = np.exp(victims.logits(initial, everything))
    probabilities = (outputs / outputs.sum(axis=1, keepdims=True)).mean(axis=0)
    true = np.bincount(labels, minlength=victims.CLASSES)
    right = [
        class_counts.agreement(class_counts.estimate(told, probabilities, batch, learning_rate), true)
        for told in (last_bias, np.zeros_like(last_bias))
    ]
    found = inversion.identified(guesses, images, everything)
    return found, batch, inversion.best_correlation(guesses, images), right[0], right[1]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
