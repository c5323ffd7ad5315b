"""The compressor that sends other entries in every round, the same at every node. No position is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from edgenode.extensions import (
    QUANTISE,
    Compressor,
    CompressorDefinition,
    Floats,
    Ints,
    Layout,
    Payload,
    Settings,
    codec,
)


@lru_cache(maxsize=8)
def shuffled_parts(layout: Layout, parts: int) -> Ints:
    """To which part each entry belongs, [d]. A tensor's entries are shuffled and divided into parts of equal size.

    Parts of small tensors may be empty. All nodes compute the same.
    """
    rng = np.random.default_rng(0)
    dealt = [rng.permutation(size) * parts // size for size in layout.sizes]
    return np.concatenate([*dealt, np.zeros(0, dtype=np.int64)])


@dataclass(frozen=True)
class Shuffled:
    """Part t of every tensor in round t: SPARTA's shuffled sequential selection (Beton et al. 2025).

    Round after round, each entry has its turn once in 1 / share rounds.
    """

    share: float
    round: int = 0

    def __call__(self, vector: Floats, layout: Layout) -> tuple[Ints, Ints]:
        return self.chosen(layout)

    def chosen(self, layout: Layout) -> tuple[Ints, Ints]:
        """The entries per tensor, [tensors], and their positions, [k]."""
        parts = math.ceil(round(1 / self.share, 6))
        positions = np.flatnonzero(shuffled_parts(layout, parts) == self.round % parts)
        return np.diff(np.searchsorted(positions, layout.offsets)), positions


@dataclass(frozen=True)
class KnownPositions:
    """A payload of shuffled entries without their positions: the selected entries, as if they were the whole model."""

    select: Shuffled

    def encode(self, payload: Payload, layout: Layout) -> bytes:
        kept = payload.counts > 0
        scales = payload.values.scales
        values = replace(payload.values, scales=None if scales is None else scales[kept])
        return codec.encode(Payload(payload.counts[kept], None, values), _alone(payload.counts))

    def decode(self, data: bytes, layout: Layout) -> Payload:
        counts, positions = self.select.chosen(layout)
        payload = codec.decode(data, _alone(counts))
        if payload.indices is not None:
            raise ValueError("it has positions")
        values = payload.values
        if values.scales is not None:
            scales = np.zeros(len(counts), dtype=np.float32)
            scales[counts > 0] = values.scales
            values = replace(values, scales=scales)
        return Payload(counts, positions, values)

    def max_bytes(self, layout: Layout) -> int:
        return codec.max_bytes(layout)


def _alone(counts: Ints) -> Layout:
    return Layout(tuple(counts[counts > 0].tolist()))


class ShuffledCompressor(Compressor):
    """Sends the entries that `Shuffled` selects. Its selection and its format belong to one round."""

    def at(self, t: int) -> Compressor:
        assert isinstance(self.select, Shuffled)
        select = replace(self.select, round=t)
        return replace(self, select=select, format=KnownPositions(select))


def _build(settings: Settings) -> Compressor:
    return ShuffledCompressor(Shuffled(settings.share), QUANTISE[settings.values])


DEFINITION = CompressorDefinition(_build, ("share", "values"), kept=lambda settings: settings.share)
