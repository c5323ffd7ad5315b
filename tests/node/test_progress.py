"""How long rounds take, and when a node logs that it makes no progress."""

from __future__ import annotations

import pytest

from edgenode.node.progress import RoundTimer, StallReporter


def test_stall_is_due_periodically_until_the_node_continues() -> None:
    stall = StallReporter(every_s=30)
    due = [stall.due(at, 7, held_up=True) for at in (100, 129, 130, 131, 160)]
    assert due == [None, None, 30, None, 60]
    assert [stall.due(at, 8, held_up=True) for at in (190, 219, 220)] == [None, None, 30]
    assert stall.due(260, 8, held_up=False) is None
    assert [stall.due(at, 8, held_up=True) for at in (289, 290)] == [None, 30]


def test_round_time_is_a_moving_average_without_pauses() -> None:
    timer = RoundTimer()
    timer.round_ended(10)
    assert timer.round_s == 0
    timer.round_ended(12)
    assert timer.round_s == 2
    timer.interrupt()
    timer.round_ended(1000)
    assert timer.round_s == 2
    for end in range(1001, 1101):
        timer.round_ended(end)
    assert timer.round_s == pytest.approx(1, abs=0.01)
