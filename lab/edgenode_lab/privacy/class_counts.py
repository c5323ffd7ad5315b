"""The classes of a batch, from the change of the last layer's bias (Wainakh et al. 2022).

With the cross-entropy, the gradient of a class's bias is the mean of p - y over the batch: the probability that the
model gives the class, minus its share of the batch. One step of SGD changes the bias by the learning rate times that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def estimate(change: Vectors, probabilities: Vectors, batch: int, learning_rate: float) -> NDArray[np.int64]:
    """Return the estimated number of samples of each class, which add up to the batch.

    Args:
        change: what the step changed in the bias, [classes].
        probabilities: what the model gives the classes before the step, [classes]. The attacker knows the model, and
            takes the mean over data of its own.
        batch: the number of samples in the step.
        learning_rate: the step's.
    """
    shares = np.maximum(change / learning_rate + probabilities, 0)
    if not shares.sum():
        shares = np.ones_like(shares)
    wanted = shares / shares.sum() * batch
    counts: NDArray[np.int64] = np.floor(wanted).astype(np.int64)
    rest = np.argsort(counts - wanted, kind="stable")[: batch - int(counts.sum())]
    counts[rest] += 1
    return counts


def agreement(estimated: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Return the share of the batch whose classes the estimate has right."""
    return float(np.minimum(estimated, true).sum() / true.sum())
