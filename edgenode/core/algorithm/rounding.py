"""Rounds the kept numbers of a vector. Has the number formats that run.toml can name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import LEVELS, Floats, Ints, Quantise, Values, as_float32


def as_bfloat16(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    """Round to the nearest bfloat16, ties to even. It has float32's range, so that values with a grown error fit."""
    return Values(_bfloat16(numbers), bits=16)


def _bfloat16(numbers: Floats) -> NDArray[np.uint16]:
    bits = numbers.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += 0x7FFF  # no number that is sent is so large that this overflows
    rounded >>= 16
    return rounded.astype(np.uint16)


@dataclass(frozen=True)
class Integers:
    """Round to the nearest of 2^bits - 1 levels between plus and minus each tensor's largest magnitude.

    Attributes:
        coarseness: the levels are at least as far apart as this, in root mean squares of a tensor. Most numbers then
            have few codes, which `codec` sends in few bits. Evenly spaced levels in an entropy code lose less than any
            others of as many bits do without one (Gish and Pierce, "Asymptotically efficient quantizing", 1968), and
            numbers far above most others cost these nothing.
    """

    bits: int
    coarseness: float = 0.0

    def __call__(self, numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
        largest = 2 ** (self.bits - 1) - 1
        scales = per_tensor(np.maximum, np.abs(numbers), counts) / np.float32(largest)
        if self.coarseness:
            scales = np.maximum(scales, np.float32(self.coarseness) * _root_mean_squares(numbers, counts))
        steps = np.repeat(np.where(scales > 0, scales, np.float32(1)), counts)
        codes = np.clip(np.rint(numbers / steps), -largest, largest).astype(np.int8)
        return Values(codes, bits=self.bits, scales=scales)


_FITS = 3  # more gain nothing for normal numbers or equal magnitudes


@dataclass(frozen=True)
class Fitted:
    """Round to the nearest of 2^bits levels, which are spaced as the parameters of a network are.

    Parameters are distributed about normally, and `LEVELS` lie closest where most of them are. Integers spread their
    levels evenly up to the largest number, which may be far from all others. The scale is found by Lloyd's iteration:

    1. It starts at the root mean square, which fits normal numbers.
    2. Each number takes the nearest level. The scale that then has the least square error is <v, level> / |level|^2.
    3. Step 2 is repeated.
    4. With more than one bit, the largest level is at least half of the largest number. Otherwise a number far above
       the levels would be sent as the same value in every round, while its error grows. On an unbalanced graph, where
       messages must be proportional to u, training would diverge.

    Equal magnitudes, as top-k keeps, are met exactly.
    """

    bits: int

    def __call__(self, numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
        scales = _root_mean_squares(numbers, counts)
        codes = self._nearest(numbers, scales, counts)
        for _ in range(_FITS):
            levels = LEVELS[self.bits][codes]
            squares = np.maximum(per_tensor(np.add, levels * levels, counts), np.float32(1e-9))
            scales = (per_tensor(np.add, levels * numbers, counts) / squares).astype(np.float32)
            before, codes = codes, self._nearest(numbers, scales, counts)
            if np.array_equal(codes, before):
                break  # every further step would repeat this one
        if self.bits > 1:
            largest = per_tensor(np.maximum, np.abs(numbers), counts)
            scales = np.maximum(scales, largest / (2 * LEVELS[self.bits][-1]))
        scales = (_bfloat16(scales).astype(np.uint32) << 16).view(np.float32)
        return Values(self._nearest(numbers, scales, counts), self.bits, scales, fitted=True)

    def _nearest(self, numbers: Floats, scales: Floats, counts: Ints) -> NDArray[np.uint8]:
        """The code of the nearest level of each number. Numbers on a border take the lower level."""
        levels = LEVELS[self.bits]
        ratios = numbers / np.repeat(np.where(scales > 0, scales, np.float32(1)), counts)
        codes = np.zeros(len(numbers), dtype=np.uint8)
        for border in (levels[1:] + levels[:-1]) / 2:
            codes += ratios > border
        return codes


as_int8 = Integers(8)
as_int4 = Integers(4)

QUANTISE: Mapping[str, Quantise] = {
    "int8": as_int8,
    "int4": as_int4,
    "coded3": Integers(8, coarseness=0.5),
    "fitted4": Fitted(4),
    "fitted2": Fitted(2),
    "fitted1": Fitted(1),
    "bfloat16": as_bfloat16,
    "float32": as_float32,
}
"""The number formats that algorithm.values can name."""


@dataclass(frozen=True)
class Random:
    """Random quantisation (Alistarh et al. 2017, QSGD; scaled as in Koloskova et al. 2019), per tensor.

    ``sign(v) * |v|_2 / (s * tau) * floor(s * |v| / |v|_2 + xi)`` with ``s = 2^bits - 1`` levels and xi uniform in
    [0, 1). Division by ``tau = 1 + min(d / s^2, sqrt(d) / s)`` makes the operator a contraction (section 8.1,
    assumption 5). A code has one bit more for its sign, and zeros are not sent.
    """

    bits: int
    drops_zeros: ClassVar[bool] = True

    def __call__(self, numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
        levels = np.float32(2**self.bits - 1)
        norms = np.sqrt(per_tensor(np.add, numbers * numbers, counts))
        tau = 1 + np.minimum(counts / levels**2, np.sqrt(counts) / levels)
        safe = np.repeat(np.where(norms > 0, norms, np.float32(1)), counts)
        noise = rng.random(len(numbers), dtype=np.float32)
        level = np.minimum(np.floor(levels * np.abs(numbers) / safe + noise), levels)
        codes = np.where(np.repeat(norms > 0, counts), np.sign(numbers) * level, 0).astype(np.int8)
        return Values(codes, bits=self.bits + 1, scales=(norms / (levels * tau)).astype(np.float32))


def _root_mean_squares(numbers: Floats, counts: Ints) -> Floats:
    """The root mean square of each tensor, [tensors]."""
    return np.sqrt(per_tensor(np.add, numbers * numbers, counts) / np.maximum(counts, 1)).astype(np.float32)


def per_tensor(reduce: np.ufunc, numbers: Floats, counts: Ints) -> Floats:
    """Reduce the entries of each tensor, [k] -> [tensors]. A tensor without entries gives 0."""
    result = np.zeros(len(counts), dtype=np.float32)
    full = counts > 0
    if full.any():
        starts = (np.cumsum(counts) - counts)[full]
        result[full] = reduce.reduceat(numbers, starts)
    return result
