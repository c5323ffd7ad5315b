"""How long rounds take, when they time out, and when a node logs that it makes no progress."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edgenode.core.protocol.events import TimedOut
from edgenode.node.progress import BarrierWait, EpochLog, RoundTimer, StallReporter, report_every_s


def test_stall_is_due_periodically_until_the_node_continues() -> None:
    stall = StallReporter(every_s=30)
    due = [stall.due(at, 7, held_up=True) for at in (100, 129, 130, 131, 160)]
    assert due == [None, None, 30, None, 60]
    assert [stall.due(at, 8, held_up=True) for at in (190, 219, 220)] == [None, None, 30]
    assert stall.due(260, 8, held_up=False) is None
    assert [stall.due(at, 8, held_up=True) for at in (289, 290)] == [None, 30]


def test_fast_epochs_share_a_line_and_the_last_is_logged() -> None:
    epochs = EpochLog(every_s=10)
    with capture_logs() as logged:
        for epoch in range(1, 26):  # one each second
            epochs.epoch_ended(100.0 + epoch, epoch=epoch)
        epochs.log_newest(126.0)
        epochs.log_newest(127.0)
    assert [(line["epoch"], line.get("epochs")) for line in logged] == [(1, None), (11, 10), (21, 10), (25, 4)]
    with capture_logs() as logged:
        every = EpochLog(every_s=0)
        for epoch in range(3):
            every.epoch_ended(100.0, epoch=epoch)
    assert [line["epoch"] for line in logged] == [0, 1, 2]


def test_epoch_of_a_private_node_is_logged_without_a_loss() -> None:
    with capture_logs() as logged:
        EpochLog(every_s=0).epoch_ended(100.0, epoch=1, loss=None)
    assert logged == [{"event": "epoch done", "log_level": "info", "epoch": 1}]


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


def test_many_members_together_report_no_more_often_than_few() -> None:
    assert [report_every_s(members, evict_after_s=30) for members in (1, 4, 16)] == [0.2, 0.2, 0.2]
    assert all(n / report_every_s(n, evict_after_s=30) == pytest.approx(80) for n in (16, 64, 100, 600))


def test_a_member_reports_four_times_before_it_is_suspected() -> None:
    assert [report_every_s(1024, limit) for limit in (30, 8)] == [7.5, 2]
    assert report_every_s(1024, evict_after_s=0.1) == 0.2  # as often as in a small run


async def test_a_wait_times_out_once_and_not_after_its_end() -> None:
    posted: asyncio.Queue[TimedOut] = asyncio.Queue()
    wait = BarrierWait(0.05, posted.put_nowait)
    wait.begin(6)
    wait.begin(7)
    assert wait.since is not None
    assert await asyncio.wait_for(posted.get(), 5) == TimedOut(7)
    wait.begin(8)
    wait.end()
    assert wait.since is None
    await asyncio.sleep(0.1)
    assert posted.empty()


async def test_a_wait_without_a_limit_never_times_out() -> None:
    posted: list[TimedOut] = []
    wait = BarrierWait(None, posted.append)
    wait.begin(7)
    await asyncio.sleep(0.05)
    assert (wait.since is None, posted) == (False, [])
