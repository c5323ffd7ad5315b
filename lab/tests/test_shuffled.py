"""Shuffled entries: every entry has its turn, all nodes agree on it, and no position is sent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Compressor, Layout, TopK
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.errors import RemoteProtocolError
from edgenode_lab.algorithms.shuffled import Shuffled, ShuffledCompressor
from edgenode_lab.testing import check_compressor

LAYOUT = Layout((1, 40, 7, 152))
VECTOR = np.random.default_rng(0).standard_normal(LAYOUT.size).astype(np.float32)
RNG = np.random.default_rng(0)


def in_round(t: int, share: float = 0.1, values: str = "float32") -> Compressor:
    return ShuffledCompressor(Shuffled(share), QUANTISE[values]).at(t)


@given(st.floats(0.01, 1), st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(0, 1000))
def test_every_entry_has_one_turn_in_a_period(share: float, sizes: list[int], first: int) -> None:
    layout, period = Layout(tuple(sizes)), int(np.ceil(round(1 / share, 6)))
    turns = [Shuffled(share, t).chosen(layout) for t in range(first, first + period)]
    assert sorted(np.concatenate([positions for _, positions in turns])) == list(range(layout.size))
    for counts, positions in turns:
        assert (np.diff(positions) > 0).all()
        assert counts.tolist() == np.histogram(positions, layout.offsets)[0].tolist()


def test_turns_are_shuffled_within_a_tensor() -> None:
    _, positions = Shuffled(0.1).chosen(Layout((1000,)))
    assert len(positions) == 100
    assert np.abs(np.diff(np.sort(positions)) - 10).sum() > 200


@pytest.mark.parametrize("values", QUANTISE)
@pytest.mark.parametrize("t", [0, 3, 10])
def test_receivers_decode_the_entries_of_the_round(values: str, t: int) -> None:
    compressor = in_round(t, values=values)
    payload = compressor(VECTOR, LAYOUT, RNG)
    assert compressor.format is not None
    decoded = codec.decode_as(compressor.format, compressor.format.encode(payload, LAYOUT), LAYOUT)
    assert np.array_equal(decoded.indices, payload.indices)
    assert np.array_equal(decoded.numbers, payload.numbers)


def test_no_position_is_sent() -> None:
    compressor = in_round(0)
    payload = compressor(VECTOR, LAYOUT, RNG)
    assert len(compressor.format.encode(payload, LAYOUT)) == 5 + 4 * len(payload.indices)


@pytest.mark.parametrize("change", ["positions", "another round", "truncated"])
def test_bytes_that_do_not_fit_the_round_are_rejected(change: str) -> None:
    compressor = in_round(0)
    data = compressor.format.encode(compressor(VECTOR, LAYOUT, RNG), LAYOUT)
    if change == "positions":
        part = Layout(tuple(count for count in compressor.select(VECTOR, LAYOUT)[0].tolist() if count))
        ten = Compressor(TopK(0.5), QUANTISE["float32"])(VECTOR[: part.size], part, RNG)
        data = codec.encode(ten, part)
    if change == "another round":
        compressor = in_round(1, share=0.2)
    if change == "truncated":
        data = data[:-1]
    with pytest.raises(RemoteProtocolError):
        codec.decode_as(compressor.format, data, LAYOUT)


def test_shuffled_is_a_compressor() -> None:
    check_compressor("shuffled", values="fitted2")
