"""Which controller a node follows, what it reports when it joins, and how it agrees on a plan with fixed peers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.orders import (
    Ended,
    EvictionCommitted,
    Fence,
    Halt,
    Hello,
    Leadership,
    Offer,
    Order,
    Restart,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.errors import ConfigError, Diverged, PeerRestarted, TransportError
from edgenode.net import control_server, dialling, peer_server
from edgenode.net.control_server import ControlServer
from edgenode.net.faults import Faults
from edgenode.net.peer_calls import abort
from edgenode.net.peer_server import PeerServer
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.node.background import in_background
from edgenode.node.controller_address import keep_controller_address
from edgenode.node.first_state import StartPoint
from edgenode.node.fixed_peers import Agreement, agree_with_peers
from edgenode.node.joining import ControllerBootstrap
from edgenode.node.local_node import LocalNode
from edgenode.node.node_options import NodeOptions
from edgenode.node.progress import NodeSnapshot
from edgenode.node.shutdown import Shutdown
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.subject import CONTROLLER, Subject
from tests.net.peer_ends import SOON_S, failure, until

PLAN = create_plan("edgenode", [Member("n0"), Member("n1")], factory.schedule(Config()))
RESUMED = Plan((replace(PLAN.latest, number=1, start=60),))
FENCE = Fence(3, 1, frozenset({"n3"}))
OPTIONS = NodeOptions(Config(), "n0", "127.0.0.1:0", (), "127.0.0.1:1", Path("unused"))
LOCAL = LocalNode(
    Identity("edgenode", "n0", Config().digest(), process="first"), (frozenset({50}), PLAN), DataSize(210, 32), 7601
)


def bootstrap(
    shown: list[str] | None = None, options: NodeOptions = OPTIONS, local: LocalNode = LOCAL
) -> ControllerBootstrap:
    return ControllerBootstrap(options, local, None, Shutdown(lambda _: None), ([] if shown is None else shown).append)


def greet(node: ControllerBootstrap, *leaderships: Leadership) -> None:
    for leadership in leaderships:
        node.take_order(Hello(leadership))


def begin(node: ControllerBootstrap) -> None:
    node.node_runs(lambda: NodeSnapshot(9, 10, 100, PLAN.extend(PLAN.successor(90)), fence=FENCE))


# --- the controller


def test_a_node_in_no_run_reports_its_checkpoints() -> None:
    join = bootstrap().join_report("127.0.0.1:7700")
    assert (join.address, join.run_digest, join.data) == ("127.0.0.1:7601", Config().digest(), DataSize(210, 32))
    assert (join.saved, join.plan, join.running, join.process) == (frozenset({50}), PLAN, False, "first")


def test_a_node_in_no_run_follows_every_controller_in_turn() -> None:
    node = bootstrap()
    greet(node, Leadership(5, "a"), Leadership(0, "b"))
    assert node.join_report("127.0.0.1:7700").follows is None


def test_a_member_reports_its_run_and_the_newest_controller() -> None:
    node = bootstrap()
    greet(node, Leadership(5, "a", "there:1"))
    begin(node)
    assert node.join_report("127.0.0.1:7700").follows == Leadership(5, "a", "there:1")
    greet(node, Leadership(5, "a", "there:2"), Leadership(6, "b", "here:1"))
    join = node.join_report("127.0.0.1:7700")
    assert (join.running, join.follows) == (True, Leadership(6, "b", "here:1"))
    assert (join.plan, join.fence, join.process) == (PLAN.extend(PLAN.successor(90)), FENCE, "first")


@pytest.mark.parametrize(
    "other", [Leadership(4, "a", "here:1"), Leadership(5, "b", "here:1")], ids=["older", "a second"]
)
def test_a_member_refuses_another_controller_and_names_both(other: Leadership) -> None:
    node = bootstrap()
    greet(node, Leadership(5, "a", "there:1"))
    begin(node)
    both = (
        rf"at here:1 \(term {other.term}, {other.nonce}\) is not the one that this node follows, "
        r"at there:1 \(term 5, a\)"
    )
    with pytest.raises(TransportError, match=both):
        greet(node, other)
    assert node.join_report("127.0.0.1:7700").follows == Leadership(5, "a", "there:1")


def test_orders_before_and_after_the_start_arrive_once_in_order() -> None:
    node = bootstrap()
    orders: list[Order] = [Offer(PLAN.latest), Fence(1, 1, frozenset({"n1"})), EvictionCommitted(PLAN.records)]
    for order in orders[:2]:
        node.take_order(order)
    begin(node)
    node.take_order(orders[2])
    assert node.mailbox.get_all() == orders


def test_a_pause_before_the_start_is_remembered() -> None:
    node = bootstrap()
    node.take_order(Hello(Leadership(0), paused=True))
    assert node.mailbox.starts_halted()
    node.take_order(Hello(Leadership(0), paused=True))
    node.take_order(Halt(False))
    assert not node.mailbox.starts_halted()


def test_a_waiting_node_shows_how_many_are_missing() -> None:
    shown: list[str] = []
    bootstrap(shown).take_order(Standby(("n0", "n1"), 2))
    assert shown == ["waiting for 2 more (connected: n0, n1)"]


def test_a_node_that_alone_waits_shows_why() -> None:
    shown: list[str] = []
    bootstrap(shown).take_order(Standby((), 0, "n2 was evicted for 20 s"))
    assert shown == ["n2 was evicted for 20 s"]


async def test_a_welcome_gives_plan_and_round_once_connected() -> None:
    node = bootstrap()
    node.link.connected.set()
    node.take_order(Welcome(PLAN, 50))
    assert await node.wait_for_start() == StartPoint(PLAN, 50)


@pytest.mark.parametrize("order", [Welcome(RESUMED, 80), Sponsor("127.0.0.1:1", ())])
@pytest.mark.parametrize("exchanges", [True, False])
async def test_process_without_which_the_others_have_resumed_starts_again(order: Order, exchanges: bool) -> None:
    """It has started meanwhile. Where nodes join in any round, such an order is an old one."""
    node = bootstrap(local=replace(LOCAL, joins_exchanges=exchanges))
    node.link.connected.set()
    node.take_order(Welcome(PLAN, 0))
    assert await node.wait_for_start() == StartPoint(PLAN, 0)
    node.take_order(Welcome(PLAN, 0))  # repeated on a new link
    assert node.mailbox.get_all() == []
    node.take_order(order)
    assert bool(node.mailbox.get_all()) == exchanges


async def test_restart_ends_the_wait_for_a_start() -> None:
    for order in (Restart("n1 restarted"), Ended("n0")):
        node = bootstrap()
        node.link.connected.set()
        node.take_order(order)
        with pytest.raises(PeerRestarted, match=r"n1 restarted|all members have ended"):
            await node.wait_for_start()


async def test_without_a_controller_the_wait_ends_with_its_address() -> None:
    node = bootstrap(options=replace(OPTIONS, wait_s=0.05))
    with pytest.raises(ConfigError, match=r"no controller answers at 127\.0\.0\.1:1 \(waited 0\.05 s\)"):
        await node.wait_for_start()


async def test_announced_impostors_do_not_hide_the_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "_AT_ONCE", 8)
    monkeypatch.setattr(dialling, "_FIRST_DIAL_S", 0.4)
    ca = make_authority("edgenode")
    own, true, false = (
        MutualTls(make_credentials(authority, subject), lambda subject, key_id: True)
        for authority, subject in (
            (ca, Subject("node", "n0")),
            (ca, CONTROLLER),
            (make_authority("edgenode"), CONTROLLER),
        )
    )
    joined: list[object] = []
    identity = replace(LOCAL.identity, security=own)

    def post(event: Reported | Disconnected) -> None:
        joined.append(event)
        if isinstance(event, Reported):
            server.handled(event.node)

    server = ControlServer(identity, post, lambda node, status: None, lambda node: "", Faults())
    services = [(control_server.SERVICE, server.add_to)]
    async with AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("0.0.0.0", 0)))  # takes connections, says nothing
        impostor = await stack.enter_async_context(serving("127.0.0.1:0", services, 0.0, security=false))
        port = await stack.enter_async_context(serving("127.0.0.1:0", services, 0.0, security=true))
        found = [f"127.0.1.{i}:{silent.getsockname()[1]}" for i in range(1, 21)]
        found += ["127.0.0.1:1", f"127.0.0.1:{impostor}", f"127.0.0.1:{port}"]
        options, local = replace(OPTIONS, controller="mdns", security=own), replace(LOCAL, identity=identity)
        node = ControllerBootstrap(options, local, Announced(found), Shutdown(lambda _: None), lambda text: None)  # type: ignore[arg-type]
        async with in_background(node.link.run(), "link"):
            await until(lambda: bool(joined))
            assert node.link.target == f"127.0.0.1:{port}"
            server.send("n0", Hello(Leadership(0)))
            await until(node.link.connected.is_set)
            monkeypatch.setattr(dialling, "_FIRST_DIAL_S", 60.0)  # this one is found only if it is dialled first
            server.hang_up("n0")
            await until(lambda: len(joined) >= 3)
            assert node.link.target == f"127.0.0.1:{port}"


async def test_node_finds_the_controller_at_the_address_of_its_invite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mDNS does not leave a network. What answers there is the controller only if it shows the certificate of one."""
    ca = make_authority("edgenode")
    own, true, false = (
        MutualTls(make_credentials(authority, subject), lambda subject, key_id: True)
        for authority, subject in (
            (ca, Subject("node", "n0")),
            (ca, CONTROLLER),
            (make_authority("edgenode"), CONTROLLER),
        )
    )
    monkeypatch.setattr("edgenode.node.controller_address.checked_host", lambda host: host)  # loopback is enough here
    local = replace(LOCAL, identity=replace(LOCAL.identity, security=own))
    for security in (true, false):
        greeting = Greeting(Leadership(0), local.identity)
        services = [(control_server.SERVICE, greeting.server.add_to)]
        async with serving("127.0.0.1:0", services, 0.0, security=security) as port:
            keep_controller_address(tmp_path, f"localhost:{port}")
            options = replace(OPTIONS, controller="mdns", security=own, state_dir=tmp_path)
            node = ControllerBootstrap(options, local, Announced([]), Shutdown(lambda _: None), lambda text: None)  # type: ignore[arg-type]
            async with in_background(node.link.run(), "link"):
                if security is true:
                    await until(node.link.connected.is_set)
                    assert node.link.target == f"127.0.0.1:{port}"
                else:
                    await asyncio.sleep(1)
                    assert not node.link.connected.is_set() and node.link.target == ""


async def test_node_that_refuses_a_controller_dials_the_other_one() -> None:
    """Both are true. The one of the older term ends first, and a member follows the newer one."""
    async with AsyncExitStack() as stack:
        terms = {}
        for term in (4, 5):
            greeting = Greeting(Leadership(term, str(term)))
            services = [(control_server.SERVICE, greeting.server.add_to)]
            port = await stack.enter_async_context(serving("127.0.0.1:0", services, 0.0))
            terms[f"127.0.0.1:{port}"] = term
        options = replace(OPTIONS, controller="mdns")
        for found in (sorted(terms), sorted(terms, reverse=True)):
            node = ControllerBootstrap(options, LOCAL, Announced(found), Shutdown(lambda _: None), lambda text: None)  # type: ignore[arg-type]
            greet(node, Leadership(5, "5", "there:1"))
            begin(node)
            async with in_background(node.link.run(), "link"), asyncio.timeout(SOON_S):
                await until(node.link.connected.is_set)
                assert terms[node.link.target] == 5


class Greeting:
    """A controller that greets each node, and no more."""

    def __init__(self, leadership: Leadership, identity: Identity = LOCAL.identity) -> None:
        self._leadership = leadership
        self.server = ControlServer(identity, self._post, lambda node, status: None, lambda node: "", Faults())

    def _post(self, event: Reported | Disconnected) -> None:
        if isinstance(event, Reported):
            self.server.handled(event.node)
            self.server.send(event.node, Hello(self._leadership))


class Announced:
    """mDNS as a test wants it."""

    def __init__(self, found: list[str]) -> None:
        self._found = found

    async def wait(self, kind: str, *, timeout_s: float) -> None: ...

    async def watch_targets(self, kind: str) -> AsyncIterator[list[str]]:
        yield self._found
        await asyncio.Event().wait()


# --- fixed peers


class FixedPeers:
    """Nodes with servers on loopback, each with a list of the addresses of all, or of all others."""

    def __init__(self, names: list[str], nodes: int, hosts: tuple[str, ...] = ("127.0.0.1",), own: bool = True) -> None:
        self._hosts, self._own = hosts, own
        self._config = load(None, {"run.nodes": nodes}, {})
        identities = [Identity("edgenode", n, self._config.digest(), process=str(i)) for i, n in enumerate(names)]
        self._locals = [
            LocalNode(identity, (frozenset(), None), DataSize(samples, 32), 0)
            for identity, samples in zip(identities, (400, 100, 100), strict=False)
        ]

    async def agree(self) -> list[Agreement | BaseException]:
        servers = [PeerServer(local.identity, local.saved) for local in self._locals]
        async with AsyncExitStack() as stack:
            ports = [
                await stack.enter_async_context(serving("127.0.0.1:0", [(peer_server.SERVICE, s.add_to)], 0.0))
                for s in servers
            ]
            self.targets = [f"127.0.0.1:{port}" for port in ports]
            calls = [
                agree_with_peers(self._options(local), local, server, lambda text: None)
                for local, server in zip(self._locals, servers, strict=True)
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    def _options(self, local: LocalNode) -> NodeOptions:
        own = None if self._own else self.targets[self._locals.index(local)]
        listed = [target.replace("127.0.0.1", host) for target in self.targets if target != own for host in self._hosts]
        return NodeOptions(self._config, local.identity.node, "127.0.0.1:0", tuple(listed), "none", Path("unused"))


@pytest.mark.parametrize("own", [True, False], ids=["all nodes are listed", "all others are listed"])
@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.1", "localhost")], ids=["once", "by two names"])
async def test_fixed_peers_derive_one_plan_and_know_each_other(hosts: tuple[str, ...], own: bool) -> None:
    peers = FixedPeers(["n1", "n0"], nodes=2, hosts=hosts, own=own)
    here, there = await peers.agree()
    assert isinstance(here, Agreement)
    assert isinstance(there, Agreement)
    start, to_others, start_there = here.start, here.addresses, there.start
    assert start.plan.latest.names == ("n0", "n1")
    assert (start.round, start) == (0, start_there)
    assert start.plan.latest.epoch == Epoch(250, 8)
    assert to_others == {"n0": peers.targets[1]}


async def test_two_fixed_peers_of_one_name_are_refused_by_address() -> None:
    peers = FixedPeers(["n0", "twin", "twin"], nodes=3)
    error = (await peers.agree())[0]
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"the peers at {peers.targets[1]} and {peers.targets[2]} have one node id, 'twin': "
        "give one of the two another --name"
    )


async def test_fixed_peer_ends_when_another_began_and_diverged() -> None:
    local, server = replace(LOCAL, saved=(frozenset(), None)), PeerServer(LOCAL.identity, (frozenset(), None))
    options = replace(OPTIONS, peers=("127.0.0.1:1",), controller="none")
    async with (
        serving("127.0.0.1:0", [(peer_server.SERVICE, server.add_to)], 0.0) as port,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(
            failure(agree_with_peers(options, local, server, lambda text: None)), name="waiting"
        )
        peer = replace(LOCAL.identity, node="n1", plan_digest="plan")
        await abort(f"127.0.0.1:{port}", peer, "training diverged at n1", SOON_S)
        error = await waiting
    assert isinstance(error, Diverged)
    assert str(error) == "training diverged at n1"


async def test_too_few_fixed_peers_are_refused_with_their_names() -> None:
    error = (await FixedPeers(["n0", "n1"], nodes=3).agree())[0]
    assert isinstance(error, ConfigError)
    assert str(error) == (
        "run.nodes = 3, but this node and its --peers are 2: n0, n1; "
        "on every node, list the addresses of all nodes, or of all others"
    )
