"""What a process does that is in no run yet: which order counts, and whose copy of an exchange it believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from safetensors.numpy import save
from structlog.testing import capture_logs

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.protocol.orders import Abort, Fetched, Restart, Sponsor, Welcome
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.period import DataSize
from edgenode.errors import Diverged, EdgenodeError, NotYet, PeerRestarted, RemoteProtocolError
from edgenode.net import peer_server
from edgenode.net.control_client import ControlLink
from edgenode.net.model_sender import Model
from edgenode.net.order_wire import REPORTS
from edgenode.net.peer_server import PeerServer
from edgenode.net.rpc import serving
from edgenode.net.wire import Identity
from edgenode.node.background import in_background
from edgenode.node.common_copy import digest_of
from edgenode.node.first_state import StartPoint
from edgenode.node.local_node import LocalNode
from edgenode.node.newcomer import Newcomer
from tests.net.peer_ends import SOON_S, until

CONFIG = load(None, {"algorithm.name": "diloco", "topology.graphs": ["complete"], "run.nodes": 3}, {})
JOINS_AT, SIZE = 7, 5
OWN = Identity(CONFIG.run.cluster, "n9", CONFIG.digest(), process="own")


def copy(momentum: float = 0.5, t: int = JOINS_AT, **others: np.ndarray) -> Model:
    """The copy of a member, next to a buffer of its own."""
    vectors = {"z": np.ones(SIZE, np.float32), "common.momentum": np.full(SIZE, momentum, np.float32), **others}
    arrays = {**vectors, "common.round": np.array([t]), "buffer.mean": np.random.default_rng().normal(size=2)}
    return Model(save(arrays), digest_of(arrays))


@dataclass
class Giver:
    """A member that has a copy, or none yet."""

    has: Model | None
    asked: int = 0

    async def give(self, node: str) -> Model:
        self.asked += 1
        assert node == "n9"
        if self.has is None:
            raise NotYet("not yet")
        return self.has


@asynccontextmanager
async def members(**copies: Model | None) -> AsyncIterator[tuple[Plan, dict[str, Giver]]]:
    """Members with their copies, and the plan that admits n9."""
    givers, addresses = {name: Giver(has) for name, has in copies.items()}, {}
    async with AsyncExitStack() as stack:
        for name, giver in givers.items():
            server = PeerServer(replace(OWN, node=name, process=name), (frozenset(), None))
            server.sponsor(giver.give)
            service = serving("127.0.0.1:0", [(peer_server.SERVICE, server.add_to)], 0.0)
            addresses[name] = f"127.0.0.1:{await stack.enter_async_context(service)}"
        yield admitting(addresses), givers


def admitting(addresses: Mapping[str, str]) -> Plan:
    known = [Member(name, 0, address) for name, address in addresses.items()]
    plan = create_plan(CONFIG.run.cluster, known, factory.schedule(CONFIG))
    record = plan.successor(JOINS_AT, members=(*known, Member("n9", 0, "127.0.0.1:1")))
    return plan.extend(record)


def a_newcomer(model_bytes: int = 1 << 20, joins_exchanges: bool = True) -> tuple[Newcomer, ControlLink]:
    async def nowhere() -> str:
        raise AssertionError("the link does not run")

    local = LocalNode(OWN, (frozenset(), None), DataSize(10, 1), 1, model_bytes=model_bytes)
    link = ControlLink(OWN, nowhere, lambda target: pytest.fail("it does not join"), lambda order: None)
    return Newcomer(replace(local, joins_exchanges=joins_exchanges), link), link


async def started(plan: Plan, model_bytes: int = 1 << 20) -> StartPoint:
    newcomer, _ = a_newcomer(model_bytes)
    newcomer.orders.put_nowait(Welcome(plan, JOINS_AT))
    async with in_background(newcomer.run(), "newcomer"), asyncio.timeout(SOON_S):
        return await newcomer.starts.get()


def momentum(start: StartPoint) -> float:
    assert start.fetched is not None
    return float(start.fetched["common.momentum"][0])


# --- the copy


async def test_newcomer_starts_with_the_copy_that_all_members_have() -> None:
    async with members(n0=copy(), n1=copy(), n2=copy()) as (plan, givers):
        start = await started(plan)
    assert (start.plan, start.round, momentum(start)) == (plan, JOINS_AT, 0.5)
    assert givers["n0"].asked == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (copy(0.75), "2 of 3 members have another one"),
        (copy(np.nan), "not finite"),
        (copy(t=6), "not of the beginning of round 7"),
        (Model(b"{", "digest"), "its copy is damaged"),
        (Model(bytes(2 * 4096 + 1), "digest"), "a model of more than 8192 bytes"),
        (copy(**{"common.more": np.ones(SIZE, np.float32)}), "2 of 3 members have another one"),
    ],
)
async def test_wrong_copy_is_refused_by_name(bad: Model, reason: str) -> None:
    async with members(n0=bad, n1=copy(), n2=copy()) as (plan, _):
        with capture_logs() as logs:
            start = await started(plan, model_bytes=4096)
    (refusal,) = [line for line in logs if line["event"] == "refused the copy of a member"]
    assert refusal["member"] == "n0" and reason in refusal["reason"]
    assert momentum(start) == 0.5


async def test_member_that_confirms_a_wrong_copy_is_one_of_three() -> None:
    wrong = copy(0.75)
    async with members(n0=wrong, n1=wrong, n2=copy(), n3=copy(), n4=copy()) as (plan, givers):
        assert momentum(await started(plan)) == 0.5
    assert givers["n1"].asked >= 2  # it confirmed, and its own copy was refused


async def test_no_copy_of_most_members_ends_the_newcomer() -> None:
    async with members(n0=copy(0.1), n1=copy(0.2), n2=copy(0.3)) as (plan, _):
        with pytest.raises(RemoteProtocolError, match="no copy of n0, n1, n2 is that of most of them"):
            await started(plan)


async def test_newcomer_waits_until_enough_members_are_there() -> None:
    async with members(n0=copy(), n1=None, n2=None) as (plan, givers):
        newcomer, _ = a_newcomer()
        newcomer.orders.put_nowait(Welcome(plan, JOINS_AT))
        async with in_background(newcomer.run(), "newcomer"):
            await until(lambda: min(givers["n1"].asked, givers["n2"].asked) > 1)
            assert newcomer.starts.empty() and givers["n0"].asked == 1
            givers["n2"].has = copy()
            async with asyncio.timeout(SOON_S):
                assert momentum(await newcomer.starts.get()) == 0.5


# --- orders


async def ended_by(*orders: Sponsor | Welcome | Restart | Abort) -> EdgenodeError:
    newcomer, _ = a_newcomer()
    with pytest.raises(EdgenodeError) as error:
        async with in_background(newcomer.run(), "newcomer"), asyncio.timeout(SOON_S):
            for order in orders:
                newcomer.orders.put_nowait(order)
                await asyncio.sleep(0.05)
            await newcomer.starts.get()
    return error.value


async def test_wait_for_a_copy_ends_when_all_restart_or_the_run_diverges() -> None:
    async with members(n0=None) as (plan, _):
        restart = await ended_by(Welcome(plan, JOINS_AT), Restart("n1 restarted"))
        abort = await ended_by(Welcome(plan, JOINS_AT), Abort("diverged at n1"))
    assert isinstance(restart, PeerRestarted) and str(restart) == "n1 restarted"
    assert isinstance(abort, Diverged) and str(abort) == "diverged at n1"


async def test_newest_welcome_counts() -> None:
    async with members(n0=None) as (never, _), members(n0=copy(), n1=copy()) as (plan, _):
        newcomer, _ = a_newcomer()
        async with in_background(newcomer.run(), "newcomer"), asyncio.timeout(SOON_S):
            newcomer.orders.put_nowait(Welcome(never, JOINS_AT))
            await asyncio.sleep(0.1)
            assert newcomer.is_member
            newcomer.orders.put_nowait(Welcome(plan, JOINS_AT))
            assert (await newcomer.starts.get()).plan == plan


async def test_newcomer_to_exchanges_reaches_all_and_fetches_nothing_yet() -> None:
    async with members(n0=None, n1=None) as (plan, givers):
        newcomer, link = a_newcomer()
        names, addresses = zip(*((m.node, m.address) for m in plan.records[0].members), strict=True)
        async with in_background(newcomer.run(), "newcomer"), asyncio.timeout(SOON_S):
            newcomer.orders.put_nowait(Sponsor(addresses[0], addresses, names[0], names))
            await until(lambda: bool(link._outbox))
    assert link._outbox == [REPORTS.to_wire(Fetched())]
    assert not newcomer.is_member
    assert [giver.asked for giver in givers.values()] == [0, 0]


async def test_members_that_resume_together_start_with_nothing_fetched() -> None:
    async with members(n0=None) as (plan, givers):
        newcomer, _ = a_newcomer()
        newcomer.orders.put_nowait(Welcome(plan, 0))
        async with in_background(newcomer.run(), "newcomer"), asyncio.timeout(SOON_S):
            assert await newcomer.starts.get() == StartPoint(plan, 0)
    assert givers["n0"].asked == 0
