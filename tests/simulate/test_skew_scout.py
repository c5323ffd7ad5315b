"""Skew-Scout's choice of the next share."""

from __future__ import annotations

import pytest

from edgenode.simulate.skew_scout_rule import SHARES, Scout


def a_scout(share: float = 0.01) -> Scout:
    return Scout.starting_at(share, tolerated=0.05, loss_weight=50)


@pytest.mark.parametrize(("share", "nearest"), [(1e-9, 0.001), (0.01, 0.01), (0.02, 0.03), (0.015, 0.01), (1.0, 1.0)])
def test_it_begins_with_the_nearest_share(share: float, nearest: float) -> None:
    assert a_scout(share).share == nearest


def test_the_cost_counts_loss_above_what_is_tolerated_and_all_that_is_sent() -> None:
    scout = a_scout()
    at = scout.at
    scout.travelled(lost=0.15, sent=0.004)
    assert scout.measured[at] == pytest.approx(50 * 0.10 + 0.004)
    scout.at = at
    scout.travelled(lost=0.05, sent=0.004)
    assert scout.measured[at] == 0.004
    scout.at = at
    scout.travelled(lost=-0.2, sent=0.004)
    assert scout.measured[at] == 0.004


def test_it_says_more_while_too_much_is_lost_and_less_while_little_is() -> None:
    scout = a_scout(0.01)
    scout.travelled(lost=0.2, sent=0.004)
    assert scout.share == 0.03
    scout.travelled(lost=0.1, sent=0.012)
    assert scout.share == 0.1
    scout = a_scout(0.01)
    scout.travelled(lost=0.0, sent=0.004)
    assert scout.share == 0.003


def settled(cost: dict[float, tuple[float, float]], share: float) -> float:
    """Where the search is after many periods in which each share loses and sends the same."""
    scout = a_scout(share)
    for _ in range(20):
        scout.travelled(*cost[scout.share])
    return scout.share


COST = {share: (max(0.0, 0.3 - 3 * share), 0.4 * share) for share in SHARES}  # 0.1 loses nothing, and sends 0.04


@pytest.mark.parametrize("share", SHARES)
def test_it_settles_at_the_cheapest_share_from_wherever_it_begins(share: float) -> None:
    cheapest = min(SHARES, key=lambda s: 50 * max(0.0, COST[s][0] - 0.05) + COST[s][1])
    assert cheapest == 0.1
    assert settled(COST, share) == cheapest


@pytest.mark.parametrize(("share", "lost"), [(0.001, 0.0), (1.0, 0.9)])
def test_it_stays_at_an_end(share: float, lost: float) -> None:
    assert settled(dict.fromkeys(SHARES, (lost, 0.0)), share) == share


def test_it_moves_again_when_what_it_knows_of_its_place_gets_worse() -> None:
    scout = a_scout(0.01)
    for _ in range(20):
        scout.travelled(*COST[scout.share])
    assert scout.share == 0.1
    scout.travelled(lost=0.5, sent=0.04)
    assert scout.share == 0.3
