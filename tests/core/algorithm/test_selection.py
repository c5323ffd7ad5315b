"""The entries of largest magnitude, compared to the bit with a stable sort of each tensor."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgenode.core.algorithm.selection import largest_of_each

SHARES = st.sampled_from([0.001, 0.01, 0.1, 0.3, 0.9, 1.0])


def by_definition(vector: np.ndarray, sizes: tuple[int, ...], counts: tuple[int, ...]) -> np.ndarray:
    """Sort by magnitude, NaN first, then by position."""
    parts, begin = [], 0
    for size, count in zip(sizes, counts, strict=True):
        magnitude = np.abs(vector[begin : begin + size])
        order = np.argsort(-np.where(np.isnan(magnitude), np.inf, magnitude), kind="stable")
        parts.append(begin + np.sort(order[:count]))
        begin += size
    return np.concatenate(parts)


def check(vector: np.ndarray, sizes: tuple[int, ...], counts: tuple[int, ...]) -> None:
    found = largest_of_each(vector, sizes, counts)
    assert found.dtype == np.int64
    assert np.array_equal(found, by_definition(vector, sizes, counts))


def vector_of(kind: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    normal = rng.standard_normal(size)
    stride = max(1, size // 16_384)
    sampled = np.arange(size) % stride == 0
    return {
        "normal": normal,
        "heavy tail": rng.pareto(0.5, size) * np.sign(normal),
        "zeros": np.zeros(size),
        "both zeros": np.where(normal > 0, 0.0, -0.0),
        "constant": np.full(size, -0.5),
        "two values": np.sign(normal) * rng.integers(1, 3, size),
        "few values": rng.integers(-20, 20, size),
        "one spike": np.arange(size) == size // 2 + 1,
        "hidden spikes": normal + 10 * ~sampled,  # the sample sees none of the large ones
        "decoys": normal + 10 * sampled,  # the sample sees nothing but large ones
        "increasing": np.arange(size),
        "decreasing": np.arange(size, 0, -1),
        "equal at the top": np.where(normal > 1, 3, normal),  # as error feedback leaves them
    }[kind].astype(np.float32)


KINDS = [
    "normal", "heavy tail", "zeros", "both zeros", "constant", "two values", "few values", "one spike",
    "hidden spikes", "decoys", "increasing", "decreasing", "equal at the top",
]  # fmt: skip


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-8, 8, width=16)), st.integers(0, 310))
def test_largest_of_a_small_tensor(vector: np.ndarray, count: int) -> None:
    check(vector, (len(vector),), (min(count, len(vector)),))


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.just(1), st.integers(0, 40), st.integers(1, 3000)), min_size=1, max_size=12),
    st.lists(st.sampled_from(KINDS), min_size=12, max_size=12),
    SHARES,
)
def test_largest_of_a_group(sizes: list[int], kinds: list[str], share: float) -> None:
    """Each tensor of a group has numbers of its own kind."""
    vector = np.concatenate([vector_of(kind, size) for kind, size in zip(kinds, sizes, strict=False)])
    check(vector, tuple(sizes), tuple(min(max(1, int(share * size)), size) for size in sizes))


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.sampled_from([1, 7, 700, 20_000, 65_535, 65_536, 70_001, 140_000]), min_size=1, max_size=5),
    st.lists(st.sampled_from(KINDS), min_size=5, max_size=5),
    SHARES,
)
def test_largest_of_large_and_small_tensors(sizes: list[int], kinds: list[str], share: float) -> None:
    test_largest_of_a_group.hypothesis.inner_test(sizes, kinds, share)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [65_535, 100_000])
def test_largest_of_a_large_tensor_for_any_sample(size: int, kind: str) -> None:
    vector = vector_of(kind, size)
    for count in (1, size // 100, size // 3):
        check(vector, (size,), (count,))


@pytest.mark.parametrize("sizes", [(200_000,), (150_000, 3, 49_997), (500, 10_000, 700)])
def test_nan_outside_the_sample_is_found(sizes: tuple[int, ...]) -> None:
    """Otherwise a diverged entry would stay in the error, undetected."""
    vector = vector_of("normal", sum(sizes))
    for at in (1, sum(sizes) - 2):
        vector[at] = np.nan
        found = largest_of_each(vector, sizes, tuple(max(1, size // 100) for size in sizes))
        assert at in found


def test_vector_without_tensors_has_no_entries() -> None:
    assert largest_of_each(np.zeros(0, dtype=np.float32), (), ()).tolist() == []


@pytest.mark.slow
def test_no_vector_of_the_size_of_the_model_is_built() -> None:
    sizes = (1_000_000, 512, *(2000,) * 100, 500_000)
    vector = vector_of("normal", sum(sizes))
    counts = tuple(size // 100 for size in sizes)
    largest_of_each(vector, sizes, counts)
    tracemalloc.start()
    try:
        largest_of_each(vector, sizes, counts)
        assert tracemalloc.get_traced_memory()[1] < vector.nbytes / 3
    finally:
        tracemalloc.stop()
