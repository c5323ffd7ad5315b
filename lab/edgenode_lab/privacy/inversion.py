"""Reconstruction of inputs from the change of a first linear layer (Phong et al. 2017).

The gradient of row i of the weights is g_i x for a batch of one, and that of its bias is g_i. So their ratio is the
input x, exactly. For a larger batch each row gives a mixture of inputs, in which one may dominate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]


def inputs(weight: Vectors, bias: Vectors) -> Vectors:
    """Return what the rows of a layer's change say the inputs are, [rows, inputs], the largest bias first.

    Args:
        weight: the change of the weights, [rows, inputs].
        bias: the change of the bias, [rows]. A row whose bias has not changed says nothing, and is left out.
    """
    order = np.argsort(-np.abs(bias), kind="stable")
    order = order[bias[order] != 0]
    ratios: Vectors = weight[order] / bias[order, None]
    return ratios


def directions(weight: Vectors) -> Vectors:
    """Return the changes of the weights themselves, [rows, inputs], the longest first.

    They are the inputs up to a factor. A compressed message may have changes of weights without that of the bias.
    """
    length = np.linalg.norm(weight, axis=1)
    order = np.argsort(-length, kind="stable")
    rows: Vectors = weight[order[length[order] > 0]]
    return rows


def identified(guesses: Vectors, true: Vectors, pool: Vectors) -> int:
    """Return how many of the true inputs are the one of the pool that a guess correlates with most, up to its sign.

    Args:
        guesses: [guesses, inputs].
        true: the inputs of the batch, [batch, inputs], which are in the pool as well.
        pool: the inputs that the attacker chooses from, [pool, inputs].
    """
    if not len(guesses):
        return 0
    nearest = pool[np.unique(np.abs(correlations(guesses, pool)).argmax(axis=1))]
    return int((true[:, None, :] == nearest[None, :, :]).all(axis=2).any(axis=1).sum())


def best_correlation(guesses: Vectors, true: Vectors) -> float:
    """Return the largest correlation of a guess with a true input, up to its sign. 0 without a guess."""
    return float(np.abs(correlations(guesses, true)).max()) if len(guesses) else 0.0


def correlations(guesses: Vectors, others: Vectors) -> Vectors:
    """Return Pearson's correlation of each guess with each of the others, [guesses, others]."""
    return _standard(guesses) @ _standard(others).T


def _standard(rows: Vectors) -> Vectors:
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    standard: Vectors = np.divide(centred, length, out=np.zeros_like(centred), where=length > 0)
    return standard
