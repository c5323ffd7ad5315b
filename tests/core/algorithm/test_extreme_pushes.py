"""Pushes with numbers at the ends of float32: they are refused, or change no more than their size."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload, Values, as_float32, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.poison_alarm import PoisonAlarm
from edgenode.errors import RemoteProtocolError

LAYOUT = Layout((300,))
SPEC = AlgorithmSpec(Compressor(keep_all, as_float32), 1.0, 100)
MODEL = np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)
SUBNORMAL, TINY, MOST = 1e-39, 2.0**-125, 9.9e15
NAN_WITH_A_PAYLOAD = np.array([0x7F800001], np.uint32).view(np.float32)[0]


def push_of(numbers: Floats) -> bytes:
    return codec.encode(Payload(np.array([LAYOUT.size]), None, Values(numbers)), LAYOUT)


def after_a_round(*received: float) -> Floats:
    """x of a node that mixes a push full of each number, with a fifth of its own."""
    learner = VectorLearner(SPEC, LAYOUT, SPEC.initial(MODEL), 1, "n0")
    learner.compress_update(0, None)
    pushes = [np.full(LAYOUT.size, number, np.float32) for number in received]
    contributions = [learner.read(0, 0.2, (1.0,), push_of(push)) for push in pushes]
    mixed, _ = PoisonAlarm(learner).inspect([(f"n{i}", 0, c) for i, c in enumerate(contributions)], 5)
    learner.mix_round(0.2, mixed)
    return learner.state.x


@pytest.mark.parametrize("number", [SUBNORMAL, -SUBNORMAL, TINY, -0.0])
def test_numbers_near_zero_change_a_model_as_zeros_do(number: float) -> None:
    assert (after_a_round(number) == after_a_round(0.0)).all()


@pytest.mark.parametrize("bits", [16, 8])
def test_scale_or_number_without_a_normal_value_changes_nothing(bits: int) -> None:
    codes = np.full(LAYOUT.size, 1, np.uint16 if bits == 16 else np.int8)  # as bfloat16: 9e-41
    scales = None if bits == 16 else np.array([SUBNORMAL], np.float32)
    payload = codec.decode(
        codec.encode(Payload(np.array([LAYOUT.size]), None, Values(codes, bits, scales)), LAYOUT), LAYOUT
    )
    x = MODEL.copy()
    payload.add_to(x, 1.0)
    assert (x == MODEL).all()


def test_largest_numbers_of_many_neighbours_do_not_overflow() -> None:
    assert np.isfinite(after_a_round(*[MOST] * 4)).all()


@pytest.mark.parametrize("number", [1.1e16, -3e38, np.inf, np.nan, NAN_WITH_A_PAYLOAD])
def test_number_that_no_node_sends_is_refused(number: float) -> None:
    numbers = MODEL.copy()
    numbers[7] = number
    learner = VectorLearner(SPEC, LAYOUT, SPEC.initial(MODEL), 1, "n0")
    with pytest.raises(RemoteProtocolError, match=r"a node ends before it sends one|is not finite"):
        learner.read(0, 0.2, (1.0,), push_of(numbers))
