"""The learning rate of each round, and values out of range."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.errors import ConfigError
from edgenode.tasks.settings import TrainSettings
from tests.tasks.small_trainer import small_trainer


def test_learning_rate_falls_at_local_epochs() -> None:
    trainer = small_trainer(learning_rate=1.0, milestones=(1, 3), decay=0.5)
    assert trainer.rounds_per_epoch == 7
    assert [trainer.learning_rate(t) for t in (0, 6, 7, 20, 21, 90)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"momentum": 1.0},
        {"weight_decay": -1.0}, {"decay": 0.0}, {"milestones": (3, 3)}, {"milestones": (0,)},
    ],
)  # fmt: skip
def test_invalid_train_settings_name_the_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(TrainSettings(), **wrong)


def test_warmup_rises_linearly_and_then_has_no_effect() -> None:
    warm, plain = (small_trainer(milestones=(1, 4), decay=0.5, learning_rate=1.0, warmup_epochs=w) for w in (2, 0))
    assert warm.rounds_per_epoch == 7
    rates = [warm.learning_rate(t) for t in range(14)]
    assert rates == [plain.learning_rate(t) * (t + 1) / 14 for t in range(14)]
    assert rates[0] == 1 / 14 and rates[6:8] == [0.5, 0.5 * 8 / 14]
    assert [warm.learning_rate(r) for r in range(14, 40)] == [plain.learning_rate(r) for r in range(14, 40)]
