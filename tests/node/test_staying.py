"""How long a member that has ended stays."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edgenode.core.protocol.orders import Ended, Halt
from edgenode.errors import PeerRestarted
from edgenode.node import staying
from tests.node.test_joining import bootstrap

NODE = "n0"


async def nothing() -> None:
    """Nothing comes for this member."""


async def test_stays_until_the_controller_says_that_all_have_ended() -> None:
    node = bootstrap()
    task = asyncio.create_task(staying.stay(node.all_ended, nothing))
    for order in (Halt(False), Ended("n1")):
        node.take_order(order)
    await asyncio.sleep(0.2)
    assert not task.done()
    node.take_order(Ended(NODE))
    await asyncio.wait_for(task, 10)


async def test_order_of_the_end_counts_before_this_member_has_ended() -> None:
    node = bootstrap()
    node.take_order(Ended(NODE))
    assert node.mailbox.get_all() == []
    await asyncio.wait_for(staying.stay(node.all_ended, nothing), 10)


async def test_takes_what_comes_until_all_restart() -> None:
    node, left = bootstrap(), [1, 2, 3]

    async def answer() -> None:
        left.pop()
        if not left:
            raise PeerRestarted("n1 restarted")

    with pytest.raises(PeerRestarted, match="n1 restarted"):
        await asyncio.wait_for(staying.stay(node.all_ended, answer), 10)


async def test_exits_alone_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staying, "_LONGEST_S", 0.1)
    with capture_logs() as logs:
        await asyncio.wait_for(staying.stay(asyncio.Event(), nothing), 10)
    assert [entry["event"] for entry in logs] == [
        "exiting before all members have ended: if one returns, start this node again"
    ]
