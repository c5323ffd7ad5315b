"""Compression operators C: a flat float32 vector in, a Payload out. Pure: random numbers come from an argument.

An operator selects entries (``select``) and then rounds their values (``quantise``, in `rounding`). Identity, top-k,
random quantisation and their combinations are thus one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.selection import largest_of_each
from edgenode.errors import Diverged, LocalProtocolError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

CHUNK = 65_536
DIVERGED = 1e15  # below this the squares of 10^8 numbers sum to a finite float32, and each number fits bfloat16


@dataclass(frozen=True)
class Layout:
    """The sizes of the model's tensors in flat order. Both ends of a push derive it from the run's configuration."""

    sizes: tuple[int, ...]

    @cached_property
    def offsets(self) -> Ints:
        """The start of each tensor, and the end of the last: [tensors + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @cached_property
    def size(self) -> int:
        """d, the number of parameters."""
        return int(self.offsets[-1])

    def repeated(self, vectors: int) -> Layout:
        """The layout of a message of so many vectors, one after the other."""
        return self if vectors == 1 else Layout(self.sizes * vectors)

    def part(self, block: int | None, blocks: int) -> Layout:
        """The layout of one block of the flat vector, with tensors divided at its bounds. None is the whole vector."""
        if block is None:
            return self
        first, last = block_bounds(self.size, blocks)[block : block + 2]
        sizes = np.diff(np.clip(self.offsets, first, last))
        return Layout(tuple(sizes[sizes > 0].tolist()))


def block_bounds(size: int, blocks: int) -> Ints:
    """The start of each contiguous block of a vector, and the end: [blocks + 1]. Sizes differ by at most one."""
    return np.arange(blocks + 1, dtype=np.int64) * size // blocks


def _levels(*positive: float) -> Floats:
    return np.array([*(-level for level in reversed(positive)), *positive], dtype=np.float32)


LEVELS: Mapping[int, Floats] = {
    1: _levels(0.7979),
    2: _levels(0.4528, 1.5104),
    4: _levels(0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
}
"""The levels, by number of bits, that round normal numbers of variance 1 with the least mean square error
(Max, "Quantizing for minimum distortion", 1960, table 1)."""


def spread(of_tensors: Floats, counts: Ints) -> Iterator[tuple[slice, Floats]]:
    """Yield the number of its tensor for each kept entry, [tensors] -> [k], chunk by chunk, with the chunk's slice."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    if total <= CHUNK:
        yield slice(0, total), np.repeat(of_tensors, counts)
        return
    for begin in range(0, total, CHUNK):
        end = min(begin + CHUNK, total)
        first, last = np.searchsorted(ends, (begin, end - 1), side="right")
        bounds = np.clip(ends[first : last + 1], begin, end)
        yield slice(begin, end), np.repeat(of_tensors[first : last + 1], np.diff(bounds, prepend=begin))


def largest_magnitude(numbers: Floats) -> np.float32:
    """The largest magnitude, 0 of no numbers. NaN if one is."""
    largest: np.float32 = np.maximum(-numbers.min(initial=0), numbers.max(initial=0))
    return largest


@dataclass(frozen=True, eq=False)
class Values:
    """Numbers as they are sent: ``codes`` in float32, bfloat16 (as uint16) or signed integers of ``bits`` bits.

    An integer code means ``code * scale``, with one float32 scale per tensor. It is less than 2^(bits-1) in magnitude,
    and -1 or 1 if ``bits`` is 1. `codec` lists the numbers of bits that can be sent.

    If ``fitted``, a code of 0 to 2^bits - 1 means ``LEVELS[bits][code] * scale``, and scales are bfloat16 numbers.
    """

    codes: NDArray[np.generic]
    bits: int = 32
    scales: Floats | None = None
    fitted: bool = False

    def decode(self, counts: Ints) -> Floats:
        """The numbers, float32 [k], where ``counts`` are the entries per tensor."""
        if self.scales is not None:
            numbers = np.empty(len(self.codes), dtype=np.float32)
            for where, scales in spread(self.scales, counts):
                codes = self.codes[where]
                levels = LEVELS[self.bits][codes] if self.fitted else codes.astype(np.float32)
                np.multiply(levels, scales, out=numbers[where])
            return numbers
        if self.bits == 16:
            shifted = self.codes.astype(np.uint32)
            shifted <<= 16
            return shifted.view(np.float32)
        return self.codes  # type: ignore[return-value]  # float32 by construction


@dataclass(frozen=True, eq=False)
class Payload:
    """C[v]: the kept entries of a vector, or of several, one after the other.

    Attributes:
        counts: entries kept per tensor, [tensors].
        indices: flat positions, strictly increasing, [k]. None if every entry is kept.
        values: the k numbers as they are sent.
    """

    counts: Ints
    indices: Ints | None
    values: Values

    @cached_property
    def numbers(self) -> Floats:
        """The kept numbers as every receiver decodes them, float32 [k]."""
        return self.values.decode(self.counts)

    def add_to(self, target: Floats, scale: float) -> None:
        """``target += scale * C[v]`` in place, without making a sparse payload dense."""
        factor, numbers = np.float32(scale), self.numbers
        if self.indices is not None:
            np.add.at(target, self.indices, factor * numbers)  # reads an entry and writes it in one pass
            return
        for begin in range(0, len(numbers), CHUNK):  # no product of size d is built
            target[begin : begin + CHUNK] += factor * numbers[begin : begin + CHUNK]

    def add_each(self, targets: Sequence[Floats], scale: float) -> None:
        """``target += scale * C[v]`` for each of the vectors [d] that the message has, in their order."""
        if len(targets) == 1:
            self.add_to(targets[0], scale)
            return
        begin = 0
        for number, (target, counts) in enumerate(zip(targets, np.split(self.counts, len(targets)), strict=True)):
            kept = slice(begin, begin := begin + int(counts.sum()))
            indices = None if self.indices is None else self.indices[kept] - number * len(target)
            Payload(counts, indices, Values(self.numbers[kept])).add_to(target, scale)

    def dense(self, size: int) -> Floats:
        """C[v] as a vector [d], for tests and references."""
        vector = np.zeros(size, dtype=np.float32)
        self.add_to(vector, 1.0)
        return vector


class Select(Protocol):
    """Selects the entries to keep."""

    def __call__(self, vector: Floats, layout: Layout) -> tuple[Ints, Ints | None]:
        """Returns counts [tensors], and indices [k] or None for all."""
        ...


class RandomSelect(Protocol):
    """Selects the entries to keep, at random."""

    def __call__(self, vector: Floats, layout: Layout, rng: np.random.Generator) -> tuple[Ints, Ints | None]:
        """Returns counts [tensors], and indices [k] or None for all."""
        ...


class Quantise(Protocol):
    """Rounds the kept numbers. If it has an attribute ``drops_zeros`` that is true, codes of zero are not sent."""

    def __call__(self, numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
        """Returns the k rounded numbers."""
        ...


class PayloadFormat(Protocol):
    """An encoding of payloads, for a compressor that has a shorter one than `codec`."""

    def encode(self, payload: Payload, layout: Layout) -> bytes:
        """The bytes of a payload that the compressor made."""
        ...

    def decode(self, data: bytes, layout: Layout) -> Payload:
        """The payload of bytes from outside. Its numbers are bit-identical to those that were encoded.

        Time and memory must be bounded by ``len(data)`` and the size of the model, whatever the bytes are. Any
        exception rejects the message.
        """
        ...

    def max_bytes(self, layout: Layout) -> int:
        """An upper bound of the encoded size. Longer messages are rejected before they are decoded."""
        ...


def keep_all(vector: Floats, layout: Layout) -> tuple[Ints, Ints | None]:
    """The identity."""
    return np.asarray(layout.sizes, dtype=np.int64), None


def keep_none(vector: Floats, layout: Layout) -> tuple[Ints, Ints | None]:
    """K = 0, the paper's baseline without communication."""
    return np.zeros(len(layout.sizes), dtype=np.int64), np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class TopK:
    """The largest entries by magnitude: a share of each tensor, and at least one of each.

    The share is per tensor and not global, which is what the byte counts of Table 2 fit: for ResNet-110 at 0.1 % it
    predicts 610x, and the paper prints 611x. A global share would give 667x.
    """

    share: float

    def __call__(self, vector: Floats, layout: Layout) -> tuple[Ints, Ints]:
        counts = _counts(self, layout)
        return np.array(counts, dtype=np.int64), largest_of_each(vector, layout.sizes, counts)

    def count(self, size: int) -> int:
        """Entries kept of a tensor of this size. Only truncation gives the 610x."""
        return max(1, int(self.share * size))


@lru_cache(maxsize=16)
def _counts(select: TopK, layout: Layout) -> tuple[int, ...]:
    return tuple(min(select.count(size), size) for size in layout.sizes)


def as_float32(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    """Keep the numbers in float32."""
    return Values(numbers)


@dataclass(frozen=True)
class Compressor:
    """The paper's C: select, then quantise.

    Attributes:
        select: chooses the entries. If ``draws``, it is a `RandomSelect`.
        format: the encoding of its payloads. None is the format of `codec`, which fits all payloads.
        draws: ``select`` is also given the random numbers of the round, from which ``quantise`` then continues.
    """

    select: Select | RandomSelect
    quantise: Quantise
    format: PayloadFormat | None = None
    draws: bool = False

    def at(self, t: int) -> Compressor:
        """The compressor of round t, for one that depends on the round. All others return themselves."""
        return self

    @property
    def lossy(self) -> bool:
        """Return whether C[v] can differ from v."""
        return (self.select, self.quantise) != (keep_all, as_float32)

    def __call__(self, vector: Floats, layout: Layout, rng: np.random.Generator, copy: bool = True) -> Payload:
        """C[vector].

        Args:
            copy: the payload shares no memory with the vector. Without it, it may.

        Raises:
            LocalProtocolError: the vector does not have the layout's size.
            Diverged: a kept number is 1e15 or larger, or NaN.
        """
        if vector.shape != (layout.size,):
            raise LocalProtocolError(f"a vector of shape {vector.shape} does not fit a model of size {layout.size}")
        select: Callable[..., tuple[Ints, Ints | None]] = self.select
        counts, indices = select(vector, layout, rng) if self.draws else select(vector, layout)
        numbers = vector if indices is None else vector[indices]
        largest = largest_magnitude(numbers)
        if not largest < DIVERGED:  # also true for NaN
            raise Diverged(f"a number to send is {largest:.4g}")
        values = self.quantise(numbers.copy() if copy and indices is None else numbers, counts, rng)
        if getattr(self.quantise, "drops_zeros", False):
            return _without_zeros(counts, indices, values)
        return Payload(counts, indices, values)


def _without_zeros(counts: Ints, indices: Ints | None, values: Values) -> Payload:
    kept = np.flatnonzero(values.codes)
    owner = np.repeat(np.arange(len(counts)), counts)[kept]
    remaining = np.bincount(owner, minlength=len(counts)).astype(np.int64)
    positions = kept if indices is None else indices[kept]
    return Payload(remaining, positions.astype(np.int64), Values(values.codes[kept], values.bits, values.scales))
