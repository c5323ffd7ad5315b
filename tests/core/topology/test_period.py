"""Periods as text, as values and in rounds."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.topology.period import NO_DATA, DataSize, Epoch, Period
from edgenode.errors import ConfigError, GraphError


@pytest.mark.parametrize(
    ("text", "period", "rounds"),
    [
        ("1ep", Period(1, "epochs"), 30),
        ("6ep", Period(6, "epochs"), 180),
        ("100r", Period(100, "rounds"), 100),
        ("100", Period(100, "rounds"), 100),
        ("7", Period(7), 7),
        ("007", Period(7), 7),
        ("999999999ep", Period(999_999_999, "epochs"), 29_999_999_970),
    ],
)
def test_text_is_parsed_and_converted_to_rounds(text: str, period: Period, rounds: int) -> None:
    assert Period.parse(text) == period
    assert period.rounds(rounds_per_epoch=30) == rounds


@given(st.integers(1, 10**9 - 1), st.sampled_from(["rounds", "epochs"]))
def test_parse_is_the_inverse_of_str(count: int, unit: Literal["rounds", "epochs"]) -> None:
    assert Period.parse(str(Period(count, unit))) == Period(count, unit)


@given(st.integers(1, 10**9 - 1), st.sampled_from(["ep", "r"]))
def test_str_is_the_inverse_of_parse(count: int, suffix: str) -> None:
    assert str(Period.parse(f"{count}{suffix}")) == f"{count}{suffix}"


MALFORMED = ["", "ep", "r", "-1", "+1", "1.5ep", "1 ep", " 1ep", "1ep\n", "6x", "1e", "٣ep", "True"]
OUT_OF_RANGE = ["0", "0ep", "00r", "9" * 10, "0" * 9 + "1"]


@pytest.mark.parametrize("wrong", MALFORMED + OUT_OF_RANGE)
def test_text_that_is_not_a_period_is_refused(wrong: str) -> None:
    with pytest.raises(GraphError) as caught:
        Period.parse(wrong)
    assert str(caught.value) == f"{wrong!r} is not a period: expected epochs, as in 6ep, or rounds, as in 100r or 100"
    assert isinstance(caught.value, ConfigError)  # the user's mistake


@pytest.mark.parametrize("count", [0, -1, 2**63])
def test_period_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(GraphError, match=f"a period must be 1 to 999999999 epochs, not {count}"):
        Period(count, "epochs")


@pytest.mark.parametrize(
    ("sizes", "epoch"),
    [
        ([DataSize(400, 32), DataSize(100, 32)], Epoch(250, 8)),
        ([DataSize(361, 32)] * 2 + [DataSize(360, 32)] * 2, Epoch(361, 12)),
        ([DataSize(1, 32)], Epoch(1, 1)),
        ([DataSize(0, 1)] * 3, NO_DATA),
    ],
)
def test_an_epoch_is_one_pass_of_the_mean_node(sizes: list[DataSize], epoch: Epoch) -> None:
    assert Epoch.of(sizes) == epoch


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
def test_weights_by_samples_are_proportional_and_near_one_on_average(samples: list[int]) -> None:
    epoch = Epoch.of([DataSize(count, 32) for count in samples])
    weights = [epoch.weight(count) for count in samples]
    assert all(a * n == pytest.approx(b * m) for a, m in zip(weights, samples, strict=True)
               for b, n in zip(weights, samples, strict=True))  # fmt: skip
    assert 0.5 <= sum(weights) / len(weights) <= 1 + 1e-9
    assert NO_DATA.weight(7) == 1
