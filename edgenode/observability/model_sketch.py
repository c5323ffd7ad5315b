"""A model in 64 numbers: enough to estimate the distance between models, and too few to reconstruct one.

A count sketch (Charikar, Chen, Farach-Colton 2002) adds every coordinate, with a random sign, to one random bucket.
Signs and buckets come from the run's seed and are the same at every node, so the difference of two sketches is the
sketch of the difference. Its squared norm has the squared norm of the difference as its expectation, with a relative
standard deviation of sqrt(2 / 64) = 18 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenode.core.algorithm.compression import Floats

BUCKETS = 64
_STREAM = 0x5CE7  # separates these draws from others with the run's seed


class Sketch:
    """The projection of one run, [size] -> [BUCKETS]. Holds one byte per coordinate."""

    def __init__(self, size: int, seed: int) -> None:
        self._code = np.random.default_rng((seed, _STREAM)).integers(0, 2 * BUCKETS, size, dtype=np.uint8)

    def of(self, z: Floats) -> list[float]:
        """The sketch of z."""
        sums = np.bincount(self._code, weights=z, minlength=2 * BUCKETS)
        return [float(x) for x in sums[:BUCKETS] - sums[BUCKETS:]]


def distance(sketches: Sequence[Sequence[float]]) -> float:
    """An estimate of 1/n sum |z_i - mean z|, the paper's distance to consensus, from sketches [n][BUCKETS]."""
    stacked = np.asarray(sketches, np.float64)
    return float(np.linalg.norm(stacked - stacked.mean(axis=0), axis=1).mean())
