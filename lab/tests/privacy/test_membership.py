"""The membership attacks, where they must succeed and where they must be at chance."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.errors import ConfigError
from edgenode_lab.privacy.membership import (
    Members,
    Numbers,
    clopper_pearson,
    likelihood_ratios,
    loss_scores,
    true_positives,
)


def halves(runs: int, samples: int, seed: int = 0) -> Members:
    first = np.random.default_rng(seed).random((runs // 2, samples)).argsort(axis=1) < samples // 2
    return np.stack([first, ~first], axis=1).reshape(runs, samples)


def seen(members: Members, effect: float, hardness: float = 5.0) -> Numbers:
    """Confidences in samples of unlike hardness. Training on a sample raises the run's by ``effect`` deviations."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((*members.shape, 1))
    return noise + hardness * rng.standard_normal((1, members.shape[1], 1)) + effect * members[:, :, None]


def test_likelihood_ratio_finds_members_that_the_loss_does_not() -> None:
    members = halves(32, 200)
    features = seen(members, effect=4.0, hardness=20.0)
    assert true_positives(likelihood_ratios(features, members), members, 0.01).low > 0.8
    assert true_positives(loss_scores(features), members, 0.01).high < 0.1


def test_loss_attack_finds_members_of_equally_hard_samples() -> None:
    members = halves(8, 400)
    assert true_positives(loss_scores(seen(members, effect=5.0, hardness=0.0)), members, 0.01).low > 0.9


@pytest.mark.parametrize("false_positives", [0.01, 0.001])
def test_without_effect_both_attacks_are_at_chance(false_positives: float) -> None:
    members = halves(32, 1000)
    features = seen(members, effect=0.0)
    for scores in (likelihood_ratios(features, members), loss_scores(features)):
        rate = true_positives(scores, members, false_positives)
        assert rate.share < 1.5 * false_positives + 0.001


def test_features_that_depend_on_the_run_alone_are_at_chance() -> None:
    """Only how many of the other runs have trained on a sample could tell of it."""
    members = halves(8, 2000)
    features = np.random.default_rng(2).standard_normal((8, 1, 3)).repeat(2000, axis=1)
    assert true_positives(likelihood_ratios(features, members), members, 0.01).share < 0.03


def test_equal_scores_find_nobody() -> None:
    members = halves(8, 100)
    assert true_positives(np.zeros(members.shape), members, 0.01).found == 0


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 50, 0.0333, 0.2181), (1, 1000, 0.0000253, 0.005559)],
)
def test_intervals_are_those_of_clopper_and_pearson(successes: int, trials: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=6e-5)


def test_too_few_runs_and_runs_without_complement_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 6"):
        likelihood_ratios(np.zeros((4, 10, 1)), halves(4, 10))
    with pytest.raises(ConfigError, match="complementary"):
        likelihood_ratios(np.zeros((6, 10, 1)), np.ones((6, 10), np.bool_))
