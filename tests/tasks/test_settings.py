"""The learning rate of each round."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import RunLength

RUN = RunLength(rounds=100, rounds_per_epoch=7)


def rates(rounds: Iterable[int], **settings: object) -> list[float]:
    chosen = TrainSettings(learning_rate=1.0, **settings)
    return [chosen.rate(1.0, t, RUN) for t in rounds]


def test_learning_rate_falls_at_epochs_of_the_run() -> None:
    assert rates((0, 6, 7, 20, 21, 90), milestones=(1, 3), decay=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cosine_falls_from_the_base_rate_to_zero() -> None:
    values = rates(range(101), schedule="cosine")
    assert (values[0], values[50]) == (1, pytest.approx(0.5))
    assert values[100] == pytest.approx(0) and values == sorted(values, reverse=True)


def test_trapezoid_is_level_and_then_falls_to_zero_with_the_rate_of_each_rounds_middle() -> None:
    assert rates(range(50), schedule="trapezoid") == [1] * 50
    assert rates((50, 74, 75, 99, 100, 150), schedule="trapezoid") == pytest.approx([0.99, 0.51, 0.49, 0.01, 0, 0])


@pytest.mark.parametrize(
    "schedule", [{"milestones": (1, 4), "decay": 0.5}, {"schedule": "cosine"}, {"schedule": "trapezoid"}]
)
def test_warmup_rises_linearly_and_then_has_no_effect(schedule: dict[str, object]) -> None:
    plain, warm = rates(range(40), **schedule), rates(range(40), warmup_epochs=2, **schedule)
    assert warm[:14] == [rate * (t + 1) / 14 for t, rate in enumerate(plain[:14])]
    assert warm[14:] == plain[14:]
