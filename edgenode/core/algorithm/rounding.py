"""Rounds the kept numbers of a vector. Has the number formats that run.toml can name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import LEVELS, Floats, Ints, Quantise, Values, as_float32, spread


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
        scales = _largest_magnitudes(numbers, counts) / np.float32(largest)
        if self.coarseness:
            scales = np.maximum(scales, np.float32(self.coarseness) * _root_mean_squares(numbers, counts))
        codes = np.empty(len(numbers), dtype=np.int8)
        for where, steps in spread(_positive(scales), counts):
            ratios = numbers[where] / steps
            codes[where] = np.clip(np.rint(ratios, out=ratios), -largest, largest, out=ratios)
        return Values(codes, bits=self.bits, scales=scales)


_CHUNK = 65_536
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
            squares, products = self._sums(numbers, codes, counts)
            scales = (products / np.maximum(squares, np.float32(1e-9))).astype(np.float32)
            before, codes = codes, self._nearest(numbers, scales, counts)
            if np.array_equal(codes, before):
                break  # every further step would repeat this one
        if self.bits > 1:
            largest = _largest_magnitudes(numbers, counts)
            scales = np.maximum(scales, largest / (2 * LEVELS[self.bits][-1]))
        scales = (_bfloat16(scales).astype(np.uint32) << 16).view(np.float32)
        return Values(self._nearest(numbers, scales, counts), self.bits, scales, fitted=True)

    def _nearest(self, numbers: Floats, scales: Floats, counts: Ints) -> NDArray[np.uint8]:
        """The code of the nearest level of each number. Numbers on a border take the lower level."""
        levels = LEVELS[self.bits]
        codes = np.zeros(len(numbers), dtype=np.uint8)
        for where, steps in spread(_positive(scales), counts):
            ratios, found = numbers[where] / steps, codes[where]
            for border in (levels[1:] + levels[:-1]) / 2:
                found += ratios > border
        return codes

    def _sums(self, numbers: Floats, codes: NDArray[np.uint8], counts: Ints) -> tuple[Floats, Floats]:
        """|level|^2 and <v, level> of each tensor."""
        squares, products = np.zeros((2, len(counts)), dtype=np.float32)
        for tensors, where in _groups(counts):
            levels = LEVELS[self.bits][codes[where]]
            squares[tensors] = per_tensor(np.add, levels * levels, counts[tensors])
            products[tensors] = per_tensor(np.add, levels * numbers[where], counts[tensors])
        return squares, products


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
        norms = np.sqrt(_squares(numbers, counts))
        tau = 1 + np.minimum(counts / levels**2, np.sqrt(counts) / levels)
        codes = np.empty(len(numbers), dtype=np.int8)
        for where, own in spread(norms, counts):
            part = numbers[where]
            noise = rng.random(len(part), dtype=np.float32)
            level = np.minimum(np.floor(levels * np.abs(part) / _positive(own) + noise), levels)
            codes[where] = np.where(own > 0, np.sign(part) * level, 0)
        return Values(codes, bits=self.bits + 1, scales=(norms / (levels * tau)).astype(np.float32))


def _root_mean_squares(numbers: Floats, counts: Ints) -> Floats:
    """The root mean square of each tensor, [tensors]."""
    return np.sqrt(_squares(numbers, counts) / np.maximum(counts, 1)).astype(np.float32)


def _squares(numbers: Floats, counts: Ints) -> Floats:
    """The sum of the squares of each tensor, [tensors]."""
    sums = np.zeros(len(counts), dtype=np.float32)
    for tensors, where in _groups(counts):
        sums[tensors] = per_tensor(np.add, numbers[where] * numbers[where], counts[tensors])
    return sums


def _largest_magnitudes(numbers: Floats, counts: Ints) -> Floats:
    """The largest magnitude of each tensor, [tensors]."""
    return np.maximum(per_tensor(np.maximum, numbers, counts), -per_tensor(np.minimum, numbers, counts))


def _positive(scales: Floats) -> Floats:
    """The scales, with 1 in place of 0, to divide by."""
    return np.where(scales > 0, scales, np.float32(1))


def _groups(counts: Ints) -> Iterator[tuple[slice, slice]]:
    """Yield groups of tensors, and their entries: single tensors, or several with few entries together.

    What is computed group by group takes no vector of size k.
    """
    ends = np.cumsum(counts)
    first = begin = 0
    while first < len(counts):
        last = max(first + 1, int(np.searchsorted(ends, begin + _CHUNK, side="right")))
        yield slice(first, last), slice(begin, begin := int(ends[last - 1]))
        first = last


def per_tensor(reduce: np.ufunc, numbers: Floats, counts: Ints) -> Floats:
    """Reduce the entries of each tensor, [k] -> [tensors]. A tensor without entries gives 0."""
    result = np.zeros(len(counts), dtype=np.float32)
    full = counts > 0
    if full.any():
        starts = (np.cumsum(counts) - counts)[full]
        result[full] = reduce.reduceat(numbers, starts)
    return result
