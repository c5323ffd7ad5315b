"""What an attacker learns of the samples of a node's first step, from what it changed, and the common initial model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenode_lab.privacy import class_counts, inversion, victims
from edgenode_lab.privacy.gradient_inversion import reconstructed


@dataclass(frozen=True, slots=True)
class FirstRound:
    """The result over all steps.

    A digit is identified if a guess correlates with it more than with any other digit of the training data.

    Attributes:
        digits: the digits that were trained on.
        analytic: those that the change of the first layer identifies.
        optimised: those that batches identify whose gradient is like the message.
        correlation: the mean over the steps of the best correlation of any guess with a digit of the batch.
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
class FirstStep:
    """What an attacker believes that the first step changed, and the truth.

    Attributes:
        change: the first, [size].
        images: those that the step was on, [batch, pixels].
        counts: the samples of each class, [classes].
    """

    change: NDArray[np.float32]
    images: victims.Vectors
    counts: NDArray[np.int64]


def first_steps(
    pool: victims.Pool, members: NDArray[np.bool_], changes: Iterable[NDArray[np.float32]]
) -> list[FirstStep]:
    """Return the first step of each node of a run that has digits.

    Args:
        pool: the digits of the run.
        members: which of them it trained on.
        changes: what the attacker believes that the first step changed, of each node.
    """
    images, labels, owners = pool.images, pool.labels.numpy(), pool.owners()
    return [
        FirstStep(change, images[chosen], np.bincount(labels[chosen], minlength=victims.CLASSES))
        for number, change in enumerate(changes)
        if (chosen := members & (owners == number)).any()
    ]


def attack(
    steps: Sequence[FirstStep], initial: NDArray[np.float32], everything: victims.Vectors, learning_rate: float
) -> FirstRound:
    """Attack first steps.

    Args:
        initial: the model before them, [size].
        everything: all digits that the attacker chooses from, [digits, pixels].
        learning_rate: that of the steps.
    """
    batch, pixels = steps[0].images.shape
    outputs = np.exp(victims.logits(initial, everything))
    probabilities = (outputs / outputs.sum(axis=1, keepdims=True)).mean(axis=0)

    def estimate(last_bias: victims.Vectors) -> np.ndarray:
        return class_counts.estimate(last_bias, probabilities, batch, learning_rate)

    layers = [victims.tensors(step.change, pixels) for step in steps]
    counts = [estimate(last_bias) for *_, last_bias in layers]
    unknown = estimate(np.zeros(victims.CLASSES))
    classes = np.array([np.repeat(np.arange(victims.CLASSES), count) for count in counts])
    bounds = float(everything.min()), float(everything.max())
    optimised = reconstructed(np.array([step.change for step in steps]), initial, classes, bounds)
    analytic = [inversion.directions(weight)[:batch] for weight, *_ in layers]
    truths = [step.images for step in steps]

    def identified(guesses: Iterable[victims.Vectors]) -> int:
        return sum(inversion.identified(g, true, everything) for g, true in zip(guesses, truths, strict=True))

    return FirstRound(
        len(steps) * batch,
        identified(analytic),
        identified(optimised),
        _mean(
            max(inversion.best_correlation(a, true), inversion.best_correlation(o, true))
            for a, o, true in zip(analytic, optimised, truths, strict=True)
        ),
        _mean(class_counts.agreement(count, step.counts) for count, step in zip(counts, steps, strict=True)),
        _mean(class_counts.agreement(unknown, step.counts) for step in steps),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
