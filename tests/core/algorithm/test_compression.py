"""Which entries are kept, and how their values are rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgenode.core.algorithm.compression import (
    LEVELS,
    Compressor,
    Layout,
    Payload,
    TopK,
    as_float32,
    keep_all,
    keep_none,
)
from edgenode.core.algorithm.rounding import Fitted, Integers, Random, as_bfloat16, as_int4, as_int8, per_tensor
from edgenode.errors import Diverged, LocalProtocolError

FITTED = [Fitted(4), Fitted(2), Fitted(1)]
RNG = np.random.default_rng(0)
FLOATS = st.floats(-(2.0**40), 2.0**40, width=32)


def compressed(compressor: Compressor, vector: np.ndarray, *sizes: int, seed: int = 0) -> Payload:
    return compressor(vector.astype(np.float32), Layout(sizes or (len(vector),)), np.random.default_rng(seed))


# --- the layout


def test_offsets_begin_each_tensor_and_end_the_last() -> None:
    assert Layout((3, 1, 4)).offsets.tolist() == [0, 3, 4, 8]
    assert Layout((3, 1, 4)).size == 8


# --- selection at random


def at_random(vector: np.ndarray, layout: Layout, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    kept = np.sort(rng.choice(layout.size, 3, replace=False))
    return np.diff(np.searchsorted(kept, layout.offsets)), kept


def test_selector_that_draws_is_given_the_random_numbers_of_the_round() -> None:
    compressor, vector = Compressor(at_random, Random(4), draws=True), np.ones(1000)
    first, again, other = (compressed(compressor, vector, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.indices, again.indices)
    assert np.array_equal(first.values.codes, again.values.codes)
    assert not np.array_equal(first.indices, other.indices)


# --- top-k


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6), st.sampled_from([0.001, 0.01, 0.1, 0.5, 1.0]))
def test_top_k_keeps_a_share_of_each_tensor(sizes: list[int], share: float) -> None:
    vector = np.random.default_rng(len(sizes)).standard_normal(sum(sizes)).astype(np.float32)
    counts, indices = TopK(share)(vector, Layout(tuple(sizes)))
    assert counts.tolist() == [max(1, int(share * size)) for size in sizes]
    assert (np.diff(indices) > 0).all()
    parts = np.split(indices, np.cumsum(counts)[:-1])
    for part, begin, size in zip(parts, np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        tensor = np.abs(vector[begin : begin + size])
        assert np.array_equal(np.sort(tensor[part - begin]), np.sort(tensor)[size - len(part) :])


def test_large_tensor_does_not_crowd_out_a_small_one() -> None:
    payload = compressed(Compressor(TopK(0.5), as_float32), np.array([100, 90, 80, 70, 0.1, 0.2]), 4, 2)
    assert payload.indices.tolist() == [0, 1, 5]


def test_magnitude_decides_and_the_sign_stays() -> None:
    payload = compressed(Compressor(TopK(0.5), as_float32), np.array([1, -4, 3, -2]))
    assert payload.dense(4).tolist() == [0, -4, 3, 0]


# --- all and none


def test_identity_keeps_every_entry_without_positions() -> None:
    vector = RNG.standard_normal(9).astype(np.float32)
    payload = compressed(Compressor(keep_all, as_float32), vector, 4, 5)
    assert payload.indices is None
    assert payload.counts.tolist() == [4, 5]
    assert np.array_equal(payload.dense(9), vector)


@pytest.mark.parametrize("quantise", [as_float32, as_bfloat16, as_int8, as_int4, Random(4), *FITTED])
def test_keeping_none_sends_nothing(quantise) -> None:
    payload = compressed(Compressor(keep_none, quantise), np.ones(9), 4, 5)
    assert (payload.counts.tolist(), len(payload.numbers)) == ([0, 0], 0)
    assert not payload.dense(9).any()


# --- values


@given(arrays(np.float32, 40, elements=st.floats(-(2.0**126), 2.0**126, width=32)))
def test_bfloat16_rounds_as_torch_does(numbers: np.ndarray) -> None:
    ours = as_bfloat16(numbers, np.array([40]), RNG).decode(np.array([40]))
    assert np.array_equal(ours, torch.from_numpy(numbers.copy()).bfloat16().float().numpy())


def test_bfloat16_rounds_ties_to_even() -> None:
    one = 0x3F800000
    ties = np.array([one + 0x8000, one + 0x18000, one + 0x7FFF, one + 0x8001], dtype=np.uint32).view(np.float32)
    assert as_bfloat16(ties, np.array([4]), RNG).codes.tolist() == [0x3F80, 0x3F82, 0x3F80, 0x3F81]


@given(arrays(np.float32, 60, elements=FLOATS))
def test_integer_error_is_at_most_half_a_step_of_the_tensor(numbers: np.ndarray) -> None:
    counts = np.array([1, 0, 19, 40])
    largest = np.repeat([np.abs(t).max(initial=0) for t in np.split(numbers, np.cumsum(counts)[:-1])], counts)
    for quantise, levels in ((as_int8, 127), (as_int4, 7)):
        values = quantise(numbers, counts, RNG)
        off = np.abs(values.decode(counts) - numbers)
        assert (off <= largest / (2 * levels) * (1 + 1e-5) + 1e-40).all()
        assert np.abs(values.codes.astype(int)).max() <= levels


@given(arrays(np.float32, 60, elements=FLOATS))
def test_coarse_integers_are_half_a_root_mean_square_apart_or_more(numbers: np.ndarray) -> None:
    counts = np.array([1, 0, 19, 40])
    values = Integers(8, coarseness=0.5)(numbers, counts, RNG)
    assert values.scales is not None
    for scale, tensor in zip(values.scales, np.split(numbers.astype(np.float64), np.cumsum(counts)[:-1]), strict=True):
        least = np.sqrt(np.mean(tensor**2)) / 2 if len(tensor) else 0
        largest = np.abs(tensor).max(initial=0)
        assert scale == pytest.approx(max(least, largest / 127), rel=1e-5, abs=1e-20)  # the squares of less are 0
    off = np.abs(values.decode(counts) - numbers)
    assert (off <= np.repeat(values.scales, counts) * (0.5 + 1e-5) + 1e-40).all()


def test_number_far_above_the_others_leaves_their_error_alone() -> None:
    """Of normal numbers, evenly spaced levels lose 1/48 of the squares, and Max's eight levels 1/29."""
    counts, rng = np.array([100_000]), np.random.default_rng(0)
    numbers = rng.standard_normal(100_000).astype(np.float32)
    for largest in (0, 20):
        numbers[0] = largest
        off = Integers(8, coarseness=0.5)(numbers, counts, RNG).decode(counts) - numbers
        assert np.mean(off**2) == pytest.approx(0.0208, rel=0.03)


def test_int4_has_fifteen_levels() -> None:
    values = as_int4(np.array([-7, -3.4, 0.4, 6.6], dtype=np.float32), np.array([4]), RNG)
    assert (values.bits, values.codes.tolist(), values.scales.tolist()) == (4, [-7, -3, 0, 7], [1])


@pytest.mark.parametrize(("bits", "error"), [(4, 0.0095), (2, 0.1175), (1, 0.3634)])
def test_fitted_levels_round_normal_numbers_as_max_has_it(bits: int, error: float) -> None:
    """The mean square errors of table 1 of Max 1960. The largest of many numbers would widen the levels of 2 bits."""
    numbers, counts = (3e-3 * np.random.default_rng(0).standard_normal(100_000)).astype(np.float32), np.full(100, 1000)
    rounded = Fitted(bits)(numbers, counts, RNG).decode(counts)
    assert np.mean((rounded - numbers) ** 2) / np.mean(numbers**2) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("bits", [2, 4])
def test_fitted_levels_lose_less_than_integers(bits: int) -> None:
    numbers, counts = np.random.default_rng(0).laplace(size=10_000).astype(np.float32), np.array([10_000])
    errors = [
        np.mean((quantise(numbers, counts, RNG).decode(counts) - numbers) ** 2)
        for quantise in (Fitted(bits), Integers(bits))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_equal_magnitudes_are_fitted_almost_exactly(bits: int) -> None:
    """Each tensor has a scale of its own, and a scale has the 8 bits of a bfloat16."""
    numbers = np.array([7, -7, 7, 0.1, -0.1], dtype=np.float32)
    counts = np.array([3, 0, 2])
    assert Fitted(bits)(numbers, counts, RNG).decode(counts) == pytest.approx(numbers, rel=2**-8)


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
def test_signs_of_fitted_values_contract(numbers: np.ndarray) -> None:
    """Error feedback needs |C[v] - v| < |v|, and what is not sent must not grow."""
    counts = np.array([len(numbers)])
    left = Fitted(1)(numbers, counts, RNG).decode(counts).astype(np.float64) - numbers
    assert np.square(left).sum() <= np.square(numbers.astype(np.float64)).sum()


@given(arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)))
@example(np.array([261_954, 20_480, 906_301, 997_117, 37_593, *[526_078] * 36], np.float32))
def test_no_number_is_far_above_the_fitted_levels(numbers: np.ndarray) -> None:
    """The largest level is half of it or more. On the border of two levels, it is sent as the lower."""
    counts = np.array([len(numbers)])
    for bits in (2, 4):
        levels, values = LEVELS[bits], Fitted(bits)(numbers, counts, RNG)
        assert values.scales is not None
        assert np.abs(numbers).max() <= 2.02 * levels[-1] * values.scales[0] + 1e-38
        assert np.abs(numbers).max() <= 2.19 * np.abs(values.decode(counts)).max() + 1e-38


def test_int8_scales_each_tensor_by_its_largest_entry() -> None:
    values = as_int8(np.array([-4, 2, 0.5, 0], dtype=np.float32), np.array([2, 1, 1]), RNG)
    assert values.codes.tolist() == [-127, 64, 127, 0]
    assert values.scales.tolist() == [np.float32(4) / np.float32(127), np.float32(0.5) / np.float32(127), 0]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_random_quantisation_contracts(bits: int, size: int) -> None:
    """Section 8.1, assumption 5: E|C[x] - x|^2 <= alpha^2 |x|^2 with alpha < 1; here alpha^2 = 1 - 1 / tau."""
    levels = 2**bits - 1
    tau = 1 + min(size / levels**2, np.sqrt(size) / levels)
    rng = np.random.default_rng(size)
    x = rng.standard_normal(size).astype(np.float32)
    trials = 400
    off = [
        np.sum((compressed(Compressor(keep_all, Random(bits)), x, seed=s).dense(size) - x) ** 2) for s in range(trials)
    ]
    expected, spread = np.mean(off) / np.sum(x**2), np.std(off) / np.sum(x**2) / np.sqrt(trials)
    assert expected <= 1 - 1 / tau + 4 * spread + 1e-6


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_random_quantisation_times_tau_is_unbiased(bits: int) -> None:
    sizes, levels, trials = (1, 4, 50), 2**bits - 1, 2000
    rng = np.random.default_rng(bits)
    x = rng.standard_normal(sum(sizes)).astype(np.float32)
    tau = np.repeat([1 + min(d / levels**2, np.sqrt(d) / levels) for d in sizes], sizes)
    compressor = Compressor(keep_all, Random(bits))
    samples = tau * np.array([compressed(compressor, x, *sizes, seed=s).dense(len(x)) for s in range(trials)])
    standard_error = samples.std(axis=0) / np.sqrt(trials)
    assert (np.abs(samples.mean(axis=0) - x) <= 4.5 * standard_error + 1e-6).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_random_quantisation_has_2_to_the_bits_minus_1_levels(bits: int) -> None:
    codes = Random(bits)(np.linspace(-1, 1, 2001).astype(np.float32), np.array([2001]), RNG).codes
    assert np.abs(codes.astype(int)).max() <= 2**bits - 1
    assert Random(bits)(np.ones(1, dtype=np.float32), np.array([1]), RNG).codes.tolist() == [2**bits - 1]


@pytest.mark.parametrize("select", [keep_all, TopK(0.3)])
def test_zeros_of_random_quantisation_are_not_sent(select) -> None:
    vector = np.concatenate([np.zeros(10), RNG.standard_normal(500), np.zeros(3)]).astype(np.float32)
    payload = compressed(Compressor(select, Random(1)), vector, 10, 500, 3)
    assert (payload.numbers != 0).all()
    assert payload.counts[0] == payload.counts[2] == 0 < payload.counts[1] < 500
    assert len(payload.indices) == payload.counts.sum()
    assert (np.sign(vector[payload.indices]) == np.sign(payload.numbers)).all()


def test_random_quantisation_depends_on_its_generator_alone() -> None:
    vector, compressor = RNG.standard_normal(50), Compressor(keep_all, Random(2))
    first, again, other = (compressed(compressor, vector, seed=s).dense(50) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_per_tensor_reduction_of_no_entries_is_zero() -> None:
    numbers = np.array([1, 5, 2], dtype=np.float32)
    assert per_tensor(np.maximum, numbers, np.array([0, 2, 0, 1, 0])).tolist() == [0, 5, 0, 2, 0]
    assert per_tensor(np.add, numbers[:0], np.array([0, 0])).tolist() == [0, 0]


# --- payloads


@given(st.sampled_from([keep_all, TopK(0.25)]), st.floats(-2, 2, width=32))
def test_adding_a_payload_is_adding_its_dense_form(select, scale: float) -> None:
    vector, target = RNG.standard_normal((2, 12)).astype(np.float32)
    payload = compressed(Compressor(select, as_float32), vector, 4, 8)
    expected = target + np.float32(scale) * payload.dense(12)
    payload.add_to(target, scale)
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("select", [keep_all, TopK(0.5)])
@pytest.mark.parametrize("quantise", [as_float32, as_bfloat16, as_int8, as_int4, Random(2), *FITTED])
def test_compression_neither_changes_nor_keeps_the_vector(select, quantise) -> None:
    vector = RNG.standard_normal(12).astype(np.float32)
    before = vector.copy()
    payload = compressed(Compressor(select, quantise), vector)
    assert np.array_equal(vector, before)
    numbers = payload.values.decode(payload.counts).copy()
    vector[:] = 0
    assert np.array_equal(payload.values.decode(payload.counts), numbers)


def test_vector_of_another_size_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError, match="does not fit a model of size 3"):
        Compressor(keep_all, as_float32)(np.zeros(4, dtype=np.float32), Layout((3,)), RNG)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e16, -1e16])
@pytest.mark.parametrize("select", [keep_all, TopK(0.1)])
@pytest.mark.parametrize("quantise", [as_float32, as_bfloat16, as_int8, as_int4, Random(4), *FITTED])
def test_diverged_number_is_never_sent(select, quantise, number: float) -> None:
    vector = np.ones(20, dtype=np.float32)
    vector[7] = number
    with pytest.raises(Diverged, match="a number to send is "):
        compressed(Compressor(select, quantise), vector)


@pytest.mark.parametrize("select", [keep_all, TopK(0.1)])
@pytest.mark.parametrize("quantise", [as_float32, as_bfloat16, as_int8, as_int4, Random(4), *FITTED])
@pytest.mark.parametrize("magnitude", [1e-44, 1e-30, 1, 1e14])
def test_numbers_of_any_magnitude_stay_finite(select, quantise, magnitude: float) -> None:
    vector = np.random.default_rng(1).standard_normal(5000) * magnitude
    assert np.isfinite(compressed(Compressor(select, quantise), vector, 1, 4999).dense(5000)).all()


@given(arrays(np.float32, st.integers(1, 60), elements=FLOATS), st.sampled_from([1, 2, 4]))
def test_nearest_fitted_level_is_that_of_a_search(numbers: np.ndarray, bits: int) -> None:
    counts = np.array([len(numbers)])
    values = Fitted(bits)(numbers, counts, RNG)
    levels, scale = LEVELS[bits], values.scales[0] or np.float32(1)
    assert values.codes.tolist() == np.searchsorted((levels[1:] + levels[:-1]) / 2, numbers / scale).tolist()
