"""Relays and their controller, over real gRPC with certificates: who may be one, and what both learn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from edgenode.core.protocol.relays import RelayAddress
from edgenode.core.protocol.status import Relayed, RelayView
from edgenode.errors import EdgenodeError, NotAdmitted, RemoteProtocolError, TransportError
from edgenode.net import relay_registration, relay_registry
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.relay_registration import register
from edgenode.net.relay_registry import RelayRegistry
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.subject import CONTROLLER, Role, Subject
from tests.net.peer_ends import SOON_S, until
from tests.net.test_relay import CA

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")
AT = "relay.example.org:7702"
KEYS = dict[str, str]()


def identity(name: str, role: Role = "relay") -> Identity:
    own = certificates.make_credentials(CA, CONTROLLER if role == "controller" else Subject(role, name))
    KEYS[name] = own.key_id
    return Identity("home", name, "", security=MutualTls(own, lambda subject, key_id: True))


class Cluster:
    """A controller, and what its relays and nodes learn from it."""

    def __init__(self) -> None:
        self.nodes, self.revoked, self.changes = frozenset({"n0"}), frozenset[str](), 0
        self.own = identity("controller", "controller")
        self.registry = RelayRegistry(lambda: self.nodes, lambda: self.revoked, self._changed)
        self.target = ""

    def _changed(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        services = [(relay_registry.SERVICE, self.registry.add_to)]
        async with serving("127.0.0.1:0", services, 0.0, security=self.own.security) as port:
            self.target = f"127.0.0.1:{port}"
            yield

    async def refusal(self, relay: Identity, address: str = AT, traffic: Iterable[Relayed] = ()) -> EdgenodeError:
        """The error of a relay that the controller does not take.

        A relay dials again after a TransportError: gRPC may lose the reason of a call that is refused while it writes.
        """
        async with asyncio.timeout(SOON_S):
            while True:
                try:
                    await register(self.target, relay, address, lambda: tuple(traffic), lambda nodes, revoked: None)
                except TransportError:
                    continue
                except EdgenodeError as exc:
                    return exc


class Registered:
    """A relay that stays registered, until its link ends."""

    def __init__(self, cluster: Cluster, name: str = "fra") -> None:
        self._cluster, self.identity = cluster, identity(name)
        self.traffic, self.access = (Relayed("n0", 1, 10),), list[tuple[frozenset[str], frozenset[str]]]()
        self.error: BaseException | None = None

    @asynccontextmanager
    async def up(self, address: str = AT) -> AsyncIterator[None]:
        async def run() -> None:
            try:
                await register(self._cluster.target, self.identity, address, lambda: self.traffic, self._take)
            except EdgenodeError as exc:
                self.error = exc

        task = asyncio.create_task(run())
        try:
            await until(lambda: bool(self.access) or self.error is not None)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _take(self, nodes: frozenset[str], revoked: frozenset[str]) -> None:
        self.access.append((nodes, revoked))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(relay_registry, "_CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(relay_registration, "_REPORT_EVERY_S", 0.05)
    return Cluster()


async def test_relay_learns_nodes_and_controller_learns_traffic(cluster: Cluster) -> None:
    async with cluster.up():
        relay = Registered(cluster)
        async with relay.up():
            assert relay.access == [(frozenset({"n0"}), frozenset())]
            assert cluster.registry.order.relays == (RelayAddress("fra", AT, KEYS["fra"]),)
            assert cluster.registry.views == (RelayView("fra", AT, True, 0.0),)
            relay.traffic = (Relayed("n0", 2, 500), Relayed("n1", 0, 7))
            await until(lambda: cluster.registry.traffic == (Relayed("n0", 2, 500, "fra"), Relayed("n1", 0, 7, "fra")))
            cluster.nodes |= {"n1"}
            cluster.revoked |= {"0" * 64}
            await until(lambda: relay.access[-1] == (frozenset({"n0", "n1"}), frozenset({"0" * 64})))
            assert [one.name for one in cluster.registry.connected] == ["fra"]


async def test_relay_whose_link_is_lost_stays_known(cluster: Cluster) -> None:
    async with cluster.up():
        async with Registered(cluster).up():
            pass
        await until(lambda: not cluster.registry.connected)
        (view,) = cluster.registry.views
        assert (view.name, view.connected) == ("fra", False) and view.last_seen_s > 0
        assert cluster.registry.address_of("fra") == AT and cluster.changes == 1
        again = Registered(cluster)
        async with again.up("203.0.113.9:7702"):
            assert cluster.registry.order.relays == (RelayAddress("fra", "203.0.113.9:7702", KEYS["fra"]),)
            assert cluster.changes == 2


async def test_revoked_relay_is_forgotten_and_not_admitted(cluster: Cluster) -> None:
    async with cluster.up():
        relay = Registered(cluster)
        async with relay.up():
            cluster.own.security.revoke([KEYS["fra"]])
            cluster.registry.revoke(frozenset({KEYS["fra"]}))
            await until(lambda: relay.error is not None)
            assert isinstance(relay.error, NotAdmitted) and "edgenode invite fra --role relay" in str(relay.error)
        assert cluster.registry.order.relays == () == cluster.registry.traffic
        assert isinstance(await cluster.refusal(relay.identity), NotAdmitted)


async def test_newer_link_of_a_relay_ends_the_older(cluster: Cluster) -> None:
    async with cluster.up():
        first, second = Registered(cluster), Registered(cluster)
        async with first.up(), second.up():
            await until(lambda: isinstance(first.error, TransportError))
            assert "fra has registered again" in str(first.error)
            assert [one.name for one in cluster.registry.connected] == ["fra"]


@pytest.mark.parametrize("role", ["node", "operator", "viewer"])
async def test_only_a_relay_can_be_one(cluster: Cluster, role: Role) -> None:
    async with cluster.up():
        assert isinstance(error := await cluster.refusal(identity("fra", role)), NotAdmitted)
        assert f"a certificate of the role {role} does not permit Register" in str(error)
        assert cluster.registry.order.relays == ()


@pytest.mark.parametrize(
    ("name", "address", "traffic", "why"),
    [
        ("n0", AT, (), "n0 is the name of a node"),
        ("fra", "nowhere", (), "HOST:PORT"),
        ("fra", "host:0", (), "HOST:PORT"),
        ("fra", AT, [Relayed("n0", 1, 2**63)], "traffic of more than"),
        ("fra", AT, [Relayed("n 0", 1, 1)], "a name is"),
        ("fra", AT, [Relayed(f"n{i}", 0, 1) for i in range(2049)], "traffic of 2049 nodes"),
    ],
)
async def test_relay_that_reports_nonsense_is_refused(
    cluster: Cluster, name: str, address: str, traffic: list[Relayed], why: str
) -> None:
    async with cluster.up():
        error = await cluster.refusal(identity(name), address, traffic)
        assert isinstance(error, RemoteProtocolError) and why in str(error)
        assert cluster.registry.order.relays == ()


async def test_relay_reports_under_its_own_name_only(cluster: Cluster) -> None:
    own = identity("fra")
    async with cluster.up(), channel(cluster.target, own.security, CONTROLLER.dns_name) as there:
        call = relay_pb2_grpc.RelayRegistryServiceStub(there).Register()
        await call.write(relay_pb2.RelayReport(name="ber", address=AT))
        assert await call.code()
        assert "a relay has its own name only" in await call.details()


async def test_cluster_has_a_limited_number_of_relays(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_registry, "MOST_RELAYS", 1)
    async with cluster.up(), Registered(cluster).up():
        error = await cluster.refusal(identity("ber"))
        assert isinstance(error, RemoteProtocolError) and "has 1 relays already" in str(error)
        async with Registered(cluster).up():  # the one that is known comes back
            assert [one.name for one in cluster.registry.connected] == ["fra"]
