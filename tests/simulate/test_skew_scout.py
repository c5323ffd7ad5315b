"""How Skew-Scout chooses the next share."""

from __future__ import annotations

import pytest

from edgenode.simulate.skew_scout import SHARES, ShareSearch


def a_search(share: float = 0.01) -> ShareSearch:
    return ShareSearch.starting_at(share, tolerated=0.05, loss_weight=50)


@pytest.mark.parametrize(("share", "nearest"), [(1e-9, 0.001), (0.01, 0.01), (0.02, 0.03), (0.015, 0.01), (1.0, 1.0)])
def test_search_starts_at_the_nearest_share(share: float, nearest: float) -> None:
    assert a_search(share).share == nearest


def test_cost_counts_excess_loss_and_all_bytes_sent() -> None:
    search = a_search()
    at = search.at
    search.update(lost=0.15, sent=0.004)
    assert search.costs[at] == pytest.approx(50 * 0.10 + 0.004)
    search.at = at
    search.update(lost=0.05, sent=0.004)
    assert search.costs[at] == 0.004
    search.at = at
    search.update(lost=-0.2, sent=0.004)
    assert search.costs[at] == 0.004


def test_share_rises_while_too_much_is_lost_and_else_falls() -> None:
    search = a_search(0.01)
    search.update(lost=0.2, sent=0.004)
    assert search.share == 0.03
    search.update(lost=0.1, sent=0.012)
    assert search.share == 0.1
    search = a_search(0.01)
    search.update(lost=0.0, sent=0.004)
    assert search.share == 0.003


def settled(cost: dict[float, tuple[float, float]], share: float) -> float:
    """The share after many measurements, if each share always has the same cost."""
    search = a_search(share)
    for _ in range(20):
        search.update(*cost[search.share])
    return search.share


COST = {share: (max(0.0, 0.3 - 3 * share), 0.4 * share) for share in SHARES}  # share 0.1 loses nothing and sends 0.04


@pytest.mark.parametrize("share", SHARES)
def test_search_settles_at_the_cheapest_share(share: float) -> None:
    cheapest = min(SHARES, key=lambda s: 50 * max(0.0, COST[s][0] - 0.05) + COST[s][1])
    assert cheapest == 0.1
    assert settled(COST, share) == cheapest


@pytest.mark.parametrize(("share", "lost"), [(0.001, 0.0), (1.0, 0.9)])
def test_search_stays_at_either_end(share: float, lost: float) -> None:
    assert settled(dict.fromkeys(SHARES, (lost, 0.0)), share) == share


def test_search_moves_on_when_its_share_gets_worse() -> None:
    search = a_search(0.01)
    for _ in range(20):
        search.update(*COST[search.share])
    assert search.share == 0.1
    search.update(lost=0.5, sent=0.04)
    assert search.share == 0.3
