"""Finds the entries of largest magnitude of each tensor. Pure.

The result is that of a stable sort: of equal magnitudes, those at lower positions are kept, whatever the processor.
Magnitudes are compared as keys, the bits of a float32 without its sign. Keys have the order of the magnitudes, and NaN
has the largest, so that it is detected.

1. A strided sample of a tensor estimates a threshold that somewhat more than the wanted entries reach.
2. The entries at or above it are the candidates. If there are enough of them, the largest entries are among them,
   because every other entry is smaller. The result is therefore exact, whatever the sample was.
3. A tensor for which this gains nothing is partitioned as a whole: one of which much is kept, in which a magnitude is
   frequent, or whose sample was misleading.

Consecutive small tensors form a group, for which each of these steps is a few array operations. Vectors are read in
chunks that fit a cache, so that no vector of size d is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Keys = NDArray[np.uint32]

_MAGNITUDE = np.uint32(0x7FFF_FFFF)  # all bits of a float32 but the sign
_ABOVE_ALL = np.uint32(0xFFFF_FFFF)  # no magnitude reaches it
_LARGE = 65_536  # a tensor of this size is a group of its own
_CHUNK = 131_072
_SAMPLED_FROM = 512  # all entries of smaller tensors are candidates
_SAMPLED_SHARE = 32  # one of so many entries is in the sample, within these bounds
_LEAST_SAMPLE, _LARGEST_SAMPLE = 256, 8_192
_MOST_KEPT = 4  # if more than one of so many entries is kept, a sample gains nothing


def largest_of_each(vector: Floats, sizes: tuple[int, ...], counts: tuple[int, ...]) -> Ints:
    """Positions of the largest magnitudes of each tensor, increasing, [sum of counts].

    Args:
        vector: [d].
        sizes: the sizes of the tensors, in the order of the vector.
        counts: the number of entries to find in each, at most its size.
    """
    bits = np.asarray(vector, dtype=np.float32).view(np.uint32)
    parts = [np.zeros(0, dtype=np.int64)]
    for begin, end, first, last in _groups(sizes):
        if last - first == 1:
            found = _of_tensor(bits[begin:end], counts[first])
        else:
            found = _of_group(bits[begin:end], _plan(sizes[first:last], counts[first:last]))
        parts.append(found + begin)
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _groups(sizes: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Return the first and last bounds of each group, in entries and in tensors."""
    groups: list[tuple[int, int, int, int]] = []
    begin = 0
    for tensor, size in enumerate(sizes):
        start, end, first, last = groups[-1] if groups else (0, 0, 0, 0)
        small = size < _LARGE and groups and (last - first > 1 or end - start < _LARGE)
        if small:
            groups[-1] = (start, end + size, first, tensor + 1)
        else:
            groups.append((begin, begin + size, tensor, tensor + 1))
        begin += size
    return groups


# one tensor --------------------------------------------------------------------------------------------


def _of_tensor(bits: Keys, count: int) -> Ints:
    size = len(bits)
    if size >= _LARGE and count * _MOST_KEPT <= size:
        sample = bits[:: size // _LARGEST_SAMPLE] & _MAGNITUDE
        wanted = int(_wanted(count * len(sample) / size))
        threshold = np.partition(sample, len(sample) - wanted)[len(sample) - wanted]
        if np.count_nonzero(sample >= threshold) <= 2 * wanted:
            positions, keys = _reaching(bits, np.array([0, size]), np.array([threshold]))
            if len(positions) >= count:
                return positions[_largest(keys, count)]
    return _largest(bits & _MAGNITUDE, count)


def _reaching(bits: Keys, offsets: Ints, thresholds: Keys) -> tuple[Ints, Keys]:
    """The positions of all entries with a key of at least the threshold of their tensor, and their keys."""
    size = min(_CHUNK, len(bits))
    scratch, reaches = np.empty(size, dtype=np.uint32), np.empty(size, dtype=np.bool_)
    positions, keys = [np.zeros(0, dtype=np.int64)], [scratch[:0]]
    for begin in range(0, len(bits), _CHUNK):
        end = min(begin + _CHUNK, len(bits))
        chunk = np.bitwise_and(bits[begin:end], _MAGNITUDE, out=scratch[: end - begin])
        limits = thresholds[0] if len(thresholds) == 1 else _spread(thresholds, offsets, begin, end)
        (found,) = np.greater_equal(chunk, limits, out=reaches[: end - begin]).nonzero()
        keys.append(chunk.take(found))
        found += begin
        positions.append(found)
    return np.concatenate(positions), np.concatenate(keys)


def _spread(thresholds: Keys, offsets: Ints, begin: int, end: int) -> Keys:
    """The threshold of each entry of a chunk."""
    first, last = np.searchsorted(offsets, [begin, end - 1], side="right") - 1
    bounds: Ints = np.clip(offsets[first : last + 2], begin, end)
    return np.repeat(thresholds[first : last + 1], np.diff(bounds))


def _largest(keys: Keys, count: int) -> Ints:
    """Positions of the ``count`` largest keys, increasing."""
    if not 0 < count < len(keys):
        return np.arange(count)
    smallest = np.partition(keys, len(keys) - count)[len(keys) - count]
    kept = np.flatnonzero(keys >= smallest)
    if len(kept) == count:
        return kept
    equal = np.flatnonzero(keys[kept] == smallest)  # the last of them are too many
    return np.delete(kept, equal[count - len(kept) :])


def _wanted(expected: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
    """Return the number of sampled entries to let through: four standard deviations above the expected number."""
    return expected + 4 * np.sqrt(expected) + 3


# a group of small tensors ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Plan:
    """The part of a selection that depends on the sizes and counts of a group only.

    Attributes:
        offsets: the start of each tensor, and the end of the last, [tensors + 1].
        counts: [tensors].
        whole: the tensors that are partitioned as a whole, [tensors].
        sampled: the numbers of the tensors with a sample.
        sample: positions of the sample, tensor after tensor.
        starts: the first position of each sampled tensor in it, and the end.
        wanted: the number of its entries that the threshold of each sampled tensor lets through.
    """

    offsets: Ints
    counts: Ints
    whole: NDArray[np.bool_]
    sampled: Ints
    sample: Ints
    starts: Ints
    wanted: Ints


@lru_cache(maxsize=64)
def _plan(sizes: tuple[int, ...], counts: tuple[int, ...]) -> _Plan:
    size, count = np.array(sizes, dtype=np.int64), np.array(counts, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(size)])
    whole = (size >= _SAMPLED_FROM) & (count * _MOST_KEPT > size)
    sampled = np.flatnonzero((size >= _SAMPLED_FROM) & ~whole)
    samples = np.clip(size[sampled] // _SAMPLED_SHARE, _LEAST_SAMPLE, _LARGEST_SAMPLE)
    starts = np.concatenate([[0], np.cumsum(samples)])
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], samples)
    sample = np.repeat(offsets[sampled], samples) + within * np.repeat(size[sampled] // samples, samples)
    wanted = np.asarray(_wanted(count[sampled] * samples / size[sampled])).astype(np.int64)
    return _Plan(offsets, count, whole, sampled, sample, starts, np.minimum(wanted, samples))


def _of_group(bits: Keys, plan: _Plan) -> Ints:
    positions, keys = _reaching(bits, plan.offsets, _thresholds(bits, plan))
    found = np.diff(np.searchsorted(positions, plan.offsets))
    whole = found < plan.counts  # among them those whose threshold lets nothing through
    kept = positions[_chosen(keys, found, np.where(whole, 0, plan.counts))]
    if not whole.any():
        return kept
    bounds = [(plan.offsets[i], plan.offsets[i + 1], int(plan.counts[i])) for i in np.flatnonzero(whole)]
    parts = [begin + _largest(bits[begin:end] & _MAGNITUDE, count) for begin, end, count in bounds]
    return np.sort(np.concatenate([kept, *parts]))


def _ranks(keys: Keys, owners: Ints) -> NDArray[np.uint64]:
    """Numbers that sort by tensor, and within a tensor from the largest key to the smallest."""
    return (owners.astype(np.uint64) << np.uint64(32)) | (_MAGNITUDE - keys)


def _thresholds(bits: Keys, plan: _Plan) -> Keys:
    """The key from which on an entry of a tensor is a candidate, [tensors]."""
    thresholds = np.zeros(len(plan.counts), dtype=np.uint32)
    thresholds[plan.whole] = _ABOVE_ALL
    if len(plan.sampled):
        starts, samples = plan.starts[:-1], np.diff(plan.starts)
        sample = np.sort(_ranks(bits[plan.sample] & _MAGNITUDE, np.repeat(np.arange(len(samples)), samples)))
        last = sample[starts + plan.wanted - 1]
        reaching = np.searchsorted(sample, last, side="right") - starts
        found = _MAGNITUDE - (last & np.uint64(_MAGNITUDE)).astype(np.uint32)
        thresholds[plan.sampled] = np.where(reaching > 2 * plan.wanted, _ABOVE_ALL, found)
    return thresholds


def _chosen(keys: Keys, found: Ints, counts: Ints) -> NDArray[np.bool_]:
    """Mark the ``counts`` largest candidates of each tensor, which has ``found`` candidates."""
    ranks = _ranks(keys, np.repeat(np.arange(len(found)), found))
    ends = np.cumsum(found)
    wanted = counts > 0
    last = np.zeros(len(found), dtype=np.uint64)  # the rank of the smallest that is kept
    last[wanted] = np.sort(ranks)[(ends - found + counts - 1)[wanted]]
    kept: NDArray[np.bool_] = ranks <= np.repeat(last, found)
    kept[np.repeat(~wanted, found)] = False
    if np.count_nonzero(kept) > counts.sum():  # equal magnitudes: the last of them are not kept
        equal = np.flatnonzero(ranks == np.repeat(last, found))
        owners = np.searchsorted(ends, equal, side="right")
        surplus = np.bincount(np.repeat(np.arange(len(found)), found)[kept], minlength=len(found)) - counts
        after = np.searchsorted(owners, owners, side="right") - np.arange(len(owners))  # equal ones from here on
        kept[equal[after <= surplus[owners]]] = False
    return kept
