from __future__ import annotations

import numpy as np
import pytest

from edgenode.tasks.os_random import OsRandom


def test_two_streams_differ() -> None:
    assert not np.array_equal(OsRandom().normal(8), OsRandom().normal(8))


def test_stream_goes_on() -> None:
    stream = OsRandom(bytes(32))
    assert not np.array_equal(stream.uniform(4), stream.uniform(4))


def test_key_decides() -> None:
    assert np.array_equal(OsRandom(b"k" * 32).normal(70_001), OsRandom(b"k" * 32).normal(70_001))


def test_uniform_numbers_fill_their_range() -> None:
    found = OsRandom(b"u" * 32).uniform(200_000)
    counts, _ = np.histogram(found, bins=10, range=(0, 1))
    assert found.min() >= 0
    assert found.max() < 1
    assert counts == pytest.approx(20_000, rel=0.03)


@pytest.mark.parametrize("count", [1, 3, 100_001])
def test_normal_numbers_of_any_count(count: int) -> None:
    assert OsRandom().normal(count).shape == (count,)


def test_normal_numbers_are_normal() -> None:
    found = np.sort(OsRandom(b"n" * 32).normal(200_000).astype(np.float64))
    assert found.mean() == pytest.approx(0, abs=0.01)
    assert found.std() == pytest.approx(1, abs=0.01)
    for quantile, expected in ((0.0228, -2), (0.1587, -1), (0.8413, 1), (0.9772, 2)):
        assert found[int(quantile * len(found))] == pytest.approx(expected, abs=0.03)
