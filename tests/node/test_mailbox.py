"""The mailbox of a node, which exists before the node."""

from __future__ import annotations

import pytest

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.events import NodeEvent
from edgenode.core.protocol.orders import Fence, Halt, Offer
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.node.mailbox import Mailbox

PLAN = create_plan("edgenode", [Member("n0"), Member("n1")], factory.schedule(Config()))


async def test_a_mailbox_keeps_the_order_of_its_events() -> None:
    mailbox = Mailbox()
    events: list[NodeEvent] = [Offer(PLAN.latest), Fence(1, 1, frozenset({"n1"})), Halt(True)]
    for event in events:
        mailbox.post(event)
    assert await mailbox.get() == events
    assert mailbox.get_all() == []


@pytest.mark.parametrize(("halts", "halted"), [((), False), ((True,), True), ((True, False), False)])
def test_the_newest_pause_decides_how_a_node_starts(halts: tuple[bool, ...], halted: bool) -> None:
    mailbox = Mailbox()
    mailbox.post(Offer(PLAN.latest))
    for halt in halts:
        mailbox.post(Halt(halt))
    mailbox.post(Fence(1, 1, frozenset({"n1"})))
    assert mailbox.starts_halted() is halted
    assert mailbox.get_all() == [Offer(PLAN.latest), Fence(1, 1, frozenset({"n1"}))]
