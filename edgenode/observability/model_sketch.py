"""A model in 64 numbers: enough to see how far models are apart, and too little to know any of them.

A count sketch (Charikar, Chen, Farach-Colton 2002): every coordinate is added, with a random sign, to one random
bucket. Both are drawn from the run's seed, alike at every node, so the difference of two sketches is the sketch of the
difference; its squared norm is that of the difference in expectation, with a relative standard deviation of
sqrt(2 / 64) = 18 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgenode.core.algorithm.compression import Floats

BUCKETS = 64
_STREAM = 0x5CE7  # tells these draws from any others of the run's seed


class Sketch:
    """The projection of one run: [size] -> [BUCKETS]. Keeps one byte per coordinate."""

    def __init__(self, size: int, seed: int) -> None:
        self._code = np.random.default_rng((seed, _STREAM)).integers(0, 2 * BUCKETS, size, dtype=np.uint8)

    def of(self, z: Floats) -> list[float]:
        """The sketch of z."""
        sums = np.bincount(self._code, weights=z, minlength=2 * BUCKETS)
        return [float(x) for x in sums[:BUCKETS] - sums[BUCKETS:]]


def distance(sketches: Sequence[Sequence[float]]) -> float:
    """Estimates 1/n sum |z_i - mean z|, the paper's distance to consensus, from sketches [n][BUCKETS]."""
    stacked = np.asarray(sketches, np.float64)
    return float(np.linalg.norm(stacked - stacked.mean(axis=0), axis=1).mean())
