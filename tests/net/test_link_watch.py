"""Which links a node reports, and for how long. The clock is the test's."""

from __future__ import annotations

import asyncio

import pytest

from edgenode.net import link_watch
from edgenode.net.link_watch import LinkWatch
from tests.net.peer_ends import N0, Receiver, until


class Watched:
    def __init__(self, address: str = "127.0.0.1:1") -> None:
        self.now, self.left_out, self.again = 0.0, list[str](), list[str]()
        self.watch = LinkWatch(N0, lambda to: (address, 3) if to == "n1" else None, lambda: self.now)
        self.watch.left_out = lambda: self.left_out
        self.watch.works_again = self.again.append

    @property
    def reported(self) -> list[tuple[str, str, float]]:
        return [(link.receiver, link.reason, link.blocked_s) for link in self.watch.blocked]


def test_short_outage_is_not_reported() -> None:
    watched = Watched()
    watched.watch.failed("n1", "there:1", "no answer")
    watched.now = 2.0
    assert watched.reported == []
    watched.now = 4.0
    assert watched.reported == [("n1", "no answer", 4.0)]
    watched.watch.works("n1")
    assert watched.reported == []


def test_outage_counts_from_when_nothing_came() -> None:
    watched = Watched()
    watched.now = 10.0
    watched.watch.failed("n1", "there:1", "no answer", for_s=5.0)
    assert watched.reported == [("n1", "no answer", 5.0)]


def test_reason_is_never_empty() -> None:
    watched = Watched()
    watched.watch.failed("n1", "there:1", "", for_s=5.0)
    assert watched.reported == [("n1", "unknown", 5.0)]


def test_node_that_is_no_member_is_not_reported() -> None:
    watched = Watched()
    watched.watch.failed("n9", "there:1", "no answer", for_s=5.0)
    assert watched.reported == []


def test_link_that_the_plan_leaves_out_is_reported_until_it_was_tried() -> None:
    watched = Watched()
    watched.left_out = ["n1"]
    assert watched.reported == [("n1", "not tried yet", 0.0)]
    watched.watch.works("n1")
    assert watched.reported == []
    watched.watch.failed("n1", "there:1", "no answer")
    assert [receiver for receiver, _, _ in watched.reported] == ["n1"]


async def test_probe_finds_a_receiver_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_watch, "_CHECK_EVERY_S", 0.01)
    receiver = Receiver()
    async with receiver.up() as address:
        watched = Watched(address)
        watched.left_out = ["n1"]
        watching = asyncio.create_task(watched.watch.run())
        await until(lambda: bool(watched.again))
        watching.cancel()
    assert watched.again == ["n1"]
    assert watched.reported == []
