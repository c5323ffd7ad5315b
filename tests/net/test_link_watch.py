"""Which links a node reports, and for how long. The clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from edgenode.net import link_watch
from edgenode.net.link_watch import LinkWatch
from tests.net.peer_ends import N0, Receiver, until

NOBODY, NOBODY_ELSE = "127.0.0.1:1", "127.0.0.1:2"


class Watched:
    def __init__(self, address: str = NOBODY, observed: str = "") -> None:
        self.now, self.left_out, self.again, self.address, self.observed = (
            0.0,
            list[str](),
            list[str](),
            address,
            observed,
        )
        self.watch = LinkWatch(N0, self._target_of, lambda: self.now, lambda to: self.observed)
        self.watch.left_out = lambda: self.left_out
        self.watch.works_again = self.again.append

    def _target_of(self, to: str) -> tuple[str, int] | None:
        return (self.address, 3) if to in ("n1", "n2") else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self.watch.run())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

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


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_watch, "_CHECK_EVERY_S", 0.01)


@pytest.mark.usefixtures("often")
async def test_probe_finds_a_receiver_that_is_back() -> None:
    async with Receiver().up() as address:
        watched = Watched(address)
        watched.left_out = ["n1"]
        async with watched.running():
            await until(lambda: bool(watched.again))
    assert watched.again == ["n1"]
    assert watched.reported == []


@pytest.mark.usefixtures("often")
async def test_outage_may_end_during_the_probe_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    probed = list[str]()

    async def reach_any(addresses: object, to: str, *_: object) -> str:
        probed.append(to)
        watched.watch.works("n1")
        watched.watch.works("n2")
        return watched.address

    monkeypatch.setattr(link_watch, "reach_any", reach_any)
    watched.watch.failed("n1", NOBODY, "no answer")
    watched.watch.failed("n2", NOBODY, "no answer")
    watched.now = 5.0
    async with watched.running():
        await asyncio.sleep(0.1)
    assert probed == ["n1"]
    assert watched.again == []


# --- where the controller sees a receiver


@pytest.mark.usefixtures("often")
async def test_receiver_is_found_at_once_where_the_controller_sees_it() -> None:
    async with Receiver().up() as address:
        watched = Watched(observed=address)
        async with watched.running():
            watched.watch.failed("n1", NOBODY, "no answer")
            await until(lambda: bool(watched.again))
            assert (watched.again, watched.watch.found("n1"), watched.reported) == (["n1"], address, [])
        watched.watch.forget("n1")
        assert watched.watch.found("n1") == ""


@pytest.mark.usefixtures("often")
async def test_own_address_of_a_receiver_is_preferred() -> None:
    async with Receiver().up() as address, Receiver().up() as observed:
        watched = Watched(address, observed)
        async with watched.running():
            watched.watch.failed("n1", address, "no answer")
            await until(lambda: bool(watched.again))
            assert watched.watch.found("n1") == ""


def test_failure_elsewhere_does_not_count_once_a_receiver_is_found() -> None:
    watched = Watched()
    watched.watch._found["n1"] = "outside:1"
    watched.watch.failed("n1", NOBODY, "the dial began before the probe", for_s=5.0)
    assert (watched.reported, watched.watch.found("n1")) == ([], "outside:1")
    watched.watch.failed("n1", "outside:1", "no answer", for_s=5.0)
    assert (watched.reported, watched.watch.found("n1")) == ([("n1", "no answer", 5.0)], "")


@pytest.mark.usefixtures("often")
async def test_new_observed_address_is_probed_at_once_and_an_old_one_is_not() -> None:
    async with Receiver().up() as address:
        watched = Watched(observed=NOBODY_ELSE)
        async with watched.running():
            watched.watch.failed("n1", NOBODY, "no answer", for_s=5.0)
            await until(lambda: NOBODY_ELSE in watched.reported[0][1])
            watched.address = address  # the next probe, which is not due, would find it
            await asyncio.sleep(0.2)
            assert watched.again == []
            watched.address, watched.observed = NOBODY, address
            await until(lambda: watched.again == ["n1"])
            watched.watch.failed("n1", address, "another key", for_s=5.0)
            await asyncio.sleep(0.2)
            assert watched.again == ["n1"]  # it has failed just now


@pytest.mark.usefixtures("often")
async def test_reason_names_all_addresses_that_were_tried() -> None:
    watched = Watched(observed=NOBODY_ELSE)
    async with watched.running():
        watched.watch.failed("n1", NOBODY, "no answer", for_s=5.0)
        await until(lambda: watched.reported[0][1] != "no answer")
    ((_, reason, _),) = watched.reported
    refused = "connection refused: nothing listens there, or a firewall rejects it"
    assert reason == f"{refused}; at {NOBODY_ELSE}: {refused}"
