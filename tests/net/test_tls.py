"""The role matrix: every method of every service, called over real gRPC by every kind of caller."""

from __future__ import annotations

import asyncio
import gc
import shutil
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from grpc.experimental.session_cache import ssl_session_cache_lru
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from structlog.testing import capture_logs

import edgenode.net.tls
from edgenode.core.protocol.status import ClusterStatus
from edgenode.net import (
    control_server,
    credential_server,
    door,
    operator_server,
    peer_server,
    relay_registry,
    relay_server,
)
from edgenode.net.control_server import ControlServer
from edgenode.net.credential_server import CredentialServer
from edgenode.net.faults import Faults
from edgenode.net.operator_client import OperatorClient
from edgenode.net.operator_server import OperatorServer
from edgenode.net.peer_server import PeerServer
from edgenode.net.proto import control_pb2, credential_pb2, operator_pb2, operator_pb2_grpc, peer_pb2, relay_pb2
from edgenode.net.relay_registry import RelayRegistry
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import INSECURE, MutualTls, Options, Security, caller
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.access import ACCESS
from edgenode.security.authority import Authority
from edgenode.security.certificates import Credentials
from edgenode.security.subject import CONTROLLER, ROLES, Caller, Role, Subject, role_dns_name

IDENTITY = Identity("home", "n0", "run")
ANY = "127.0.0.1:0"
CA = certificates.make_authority("home")
SERVER = certificates.make_credentials(CA, Subject("node", "n0"))
SERVER_NAME = SERVER.subject.dns_name
FILES = (peer_pb2, relay_pb2, control_pb2, operator_pb2, credential_pb2, health_pb2, reflection_pb2)


@dataclass(frozen=True)
class Method:
    """One method of one service."""

    name: str
    streams_requests: bool
    streams_responses: bool

    async def call(self, there: grpc.aio.Channel, request: bytes = b"") -> grpc.StatusCode:
        """The status of a call with one request.

        A stream of one request has the same bytes as a single request. grpc.aio would write a stream in a task of its
        own, and report INTERNAL in place of the server's status if the call is refused before that.
        """
        kind = there.unary_stream if self.streams_responses else there.unary_unary
        call = kind(self.name)(request, timeout=5)
        try:
            if self.streams_responses:
                await call.read()
                call.cancel()
                return grpc.StatusCode.OK
            await call
        except grpc.aio.AioRpcError as exc:
            return exc.code()
        return grpc.StatusCode.OK

    async def live(self, there: grpc.aio.Channel, node: str) -> grpc.aio.Call:
        """A call of a node that stays open, once the server has taken it."""
        if not self.streams_requests:
            watch = there.unary_stream(self.name)(b"")
            await watch.read()
            return watch
        identity = Identity("home", node, "run", process="p").to_wire()
        push = "Push" in self.name
        join = control_pb2.AttendRequest(join=control_pb2.Join(identity=identity, address="127.0.0.1:1"))
        first = peer_pb2.PushRequest(hello=identity) if push else join
        stream = there.stream_stream(self.name)()
        await stream.write(first.SerializeToString())
        await (stream.read() if push else stream.wait_for_connection())
        if not push:
            await asyncio.sleep(0.2)  # the server sends nothing until a cluster gives an order
        return stream


METHODS = [
    Method(f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@asynccontextmanager
async def server(security: Security) -> AsyncIterator[str]:
    """All services of edgenode behind one door. Yields host:port."""
    control = ControlServer(IDENTITY, lambda event: None, lambda node, status: None, str, Faults())
    peers = PeerServer(IDENTITY, (frozenset(), None))
    peers.open(IDENTITY, lambda message, taken: taken(), 1000)
    run = SimpleNamespace(status=lambda: ClusterStatus("home"), open_page=str)
    authority = SimpleNamespace(subjects=dict)
    services = [
        (peer_server.SERVICE, peers.add_to),
        (relay_server.SERVICE, RelayServer(IDENTITY, lambda node: "").add_to),
        (relay_registry.SERVICE, RelayRegistry(frozenset, frozenset, lambda: None).add_to),
        (control_server.SERVICE, control.add_to),
        (operator_server.SERVICE, OperatorServer(run).add_to),  # type: ignore[arg-type]
        (credential_server.SERVICE, CredentialServer(authority, (), lambda *asked: nullcontext()).add_to),
    ]
    async with serving(ANY, services, grace_s=0, reflection=True, security=security) as port:
        yield f"127.0.0.1:{port}"


def tls(credentials: Credentials, revoked: frozenset[str] = frozenset()) -> MutualTls:
    return MutualTls(credentials, lambda subject, key_id: key_id not in revoked)


def test_table_names_every_method() -> None:
    assert {method.name for method in METHODS} == ACCESS.keys()


async def test_refused_callers_take_one_line_of_the_log() -> None:
    credentials = certificates.make_credentials(CA, Subject("node", "n1"))
    attend, stop = (next(m for m in METHODS if m.name.endswith(name)) for name in ("/Attend", "/Stop"))
    with capture_logs() as logged:
        async with server(tls(SERVER, frozenset({credentials.key_id}))) as target:
            for _ in range(8):  # each with a connection, and so a port, of its own
                async with channel(target, tls(credentials), SERVER_NAME) as there:
                    assert await attend.call(there) is grpc.StatusCode.PERMISSION_DENIED
                    assert await stop.call(there) is grpc.StatusCode.PERMISSION_DENIED
    refusals = [(line["method"], line["who"]) for line in logged if line["event"] == "refused a call"]
    assert refusals == [(method.name, "node n1") for method in (attend, stop)]


@pytest.mark.parametrize("role", ROLES)
async def test_role_may_call_what_the_table_says(role: Role) -> None:
    credentials = certificates.make_credentials(CA, CONTROLLER if role == "controller" else Subject(role, "n1"))
    async with server(tls(SERVER)) as target, channel(target, tls(credentials), SERVER_NAME) as there:
        for method in METHODS:
            refused = await method.call(there) is grpc.StatusCode.PERMISSION_DENIED
            assert refused == (role not in ACCESS[method.name]), method.name
    async with server(tls(SERVER)) as target, channel(target, tls(credentials), SERVER_NAME) as there:
        client = OperatorClient(operator_pb2_grpc.OperatorServiceStub(there), target, tls(credentials))
        assert client.may_open_page == (role in ACCESS["/edgenode.v1.OperatorService/OpenPage"])


async def test_revoked_key_may_call_nothing() -> None:
    credentials = certificates.make_credentials(CA, Subject("operator", "anna"))
    revoked = frozenset({certificates.public_key_id(credentials.certificate)})
    async with server(tls(SERVER, revoked)) as target, channel(target, tls(credentials), SERVER_NAME) as there:
        for method in METHODS:
            assert await method.call(there) is grpc.StatusCode.PERMISSION_DENIED, method.name


@pytest.mark.parametrize("role", ["node", "relay", "operator", "viewer"])
async def test_key_that_the_register_does_not_have_is_refused(role: Role, tmp_path: Path) -> None:
    """The authority's key signed its certificate elsewhere: in a copy of the folder, from before the newest changes."""
    authority = Authority(tmp_path / "authority", "home")
    shutil.copytree(tmp_path / "authority", tmp_path / "copy")
    own = Authority(tmp_path / "copy", "home").make(Subject(role, "n1"))
    async with (
        server(MutualTls(authority.controller(), authority.admits)) as target,
        channel(target, tls(own), CONTROLLER.dns_name) as there,
    ):
        for method in METHODS:
            assert await method.call(there) is grpc.StatusCode.PERMISSION_DENIED, method.name


async def test_key_that_is_revoked_while_the_door_asks_is_refused() -> None:
    credentials = certificates.make_credentials(CA, Subject("node", "n1"))

    async def admits(subject: Subject, key_id: str) -> bool:
        door_side.revoke([key_id])
        return True

    door_side = MutualTls(SERVER, admits)
    fetch = next(method for method in METHODS if method.name.endswith("/FetchModel"))
    async with server(door_side) as target, channel(target, tls(credentials), SERVER_NAME) as there:
        assert await fetch.call(there) is grpc.StatusCode.PERMISSION_DENIED


class Resuming(MutualTls):
    """A client that resumes its TLS sessions, as the clients of edgenode do not."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials, lambda subject, key_id: True)
        self._sessions = ssl_session_cache_lru(8)

    def channel(self, target: str, server: str, options: Options) -> grpc.aio.Channel:
        return super().channel(target, server, [*options, ("grpc.ssl_session_cache", self._sessions)])


async def resumed(target: str, own: Security) -> grpc.StatusCode:
    """The status of a short call on a connection of its own."""
    method = next(method for method in METHODS if method.name.endswith("Health/Check"))
    async with channel(target, own, SERVER_NAME) as there:
        status = await method.call(there)
        await asyncio.sleep(0.1)  # the server's ticket for the next session arrives after the handshake
        return status


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call that a server has checked came with a resumed session."""
    found = list[bool]()

    def noted(context: grpc.aio.ServicerContext) -> Caller | None:
        found.append(context.auth_context()["ssl_session_reused"] == [b"true"])
        return caller(context)

    monkeypatch.setattr(edgenode.net.tls, "caller", noted)
    return found


@pytest.mark.parametrize("role", ["node", "operator"])
async def test_resumed_session_of_a_revoked_key_is_refused(role: Role, sessions: list[bool]) -> None:
    serving_side, own = tls(SERVER), Resuming(certificates.make_credentials(CA, Subject(role, "n1")))
    async with server(serving_side) as target:
        assert [await resumed(target, own) for _ in range(2)] == [grpc.StatusCode.OK] * 2
        serving_side.revoke([own.credentials.key_id])
        assert [await resumed(target, own) for _ in range(2)] == [grpc.StatusCode.PERMISSION_DENIED] * 2
    assert sessions == [False, True, True, True]


@pytest.mark.slow
async def test_resumed_session_ends_with_its_certificate(sessions: list[bool]) -> None:
    own = Resuming(certificates.make_credentials(CA, Subject("node", "n1"), timedelta(seconds=3)))
    async with server(tls(SERVER)) as target:
        assert [await resumed(target, own) for _ in range(2)] == [grpc.StatusCode.OK] * 2
        await asyncio.sleep(3.1)
        assert await resumed(target, own) is grpc.StatusCode.PERMISSION_DENIED
    assert sessions == [False, True, True]


@pytest.mark.parametrize("name", ["PeerService/Push", "ControlService/Attend", "Health/Watch"])
async def test_revocation_ends_live_streams_and_only_those(name: str) -> None:
    method = next(method for method in METHODS if method.name.endswith(name))
    serving_side, keys = tls(SERVER), [certificates.make_credentials(CA, Subject("node", f"n{i}")) for i in (1, 2)]
    async with server(serving_side) as target, AsyncExitStack() as stack:
        streams = []
        for own in keys:
            there = await stack.enter_async_context(channel(target, tls(own), SERVER_NAME))
            streams.append(await method.live(there, own.subject.name))
        serving_side.revoke([certificates.public_key_id(keys[0].certificate)])
        async with asyncio.timeout(1):
            assert await streams[0].code() is grpc.StatusCode.PERMISSION_DENIED
        assert not streams[1].done()
        again = await stack.enter_async_context(channel(target, tls(keys[0]), SERVER_NAME))
        assert await method.call(again) is grpc.StatusCode.PERMISSION_DENIED
        streams[1].cancel()


@asynccontextmanager
async def watching(target: str, own: Credentials, count: int) -> AsyncIterator[list[grpc.aio.UnaryStreamCall]]:
    """Many calls of one method with one key, once the server has taken or refused each."""
    async with AsyncExitStack() as stack:
        watches = []
        for _ in range(-(-count // 50)):  # a connection has at most 100
            there = await stack.enter_async_context(channel(target, tls(own), SERVER_NAME))
            watch = there.unary_stream("/grpc.health.v1.Health/Watch")
            watches += [watch(b"") for _ in range(min(50, count - len(watches)))]
        await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
        yield watches


async def allowed(target: str, own: Credentials, name: str = "OperatorService/Status") -> bool:
    """Whether a short call of a key has a place."""
    method = next(method for method in METHODS if method.name.endswith(name))
    async with channel(target, tls(own), SERVER_NAME) as there:
        return await method.call(there) is not grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("role", ["viewer", "node"])
async def test_one_key_takes_a_limited_number_of_places(role: Role) -> None:
    own = certificates.make_credentials(CA, Subject(role, "n1"))
    operator = certificates.make_credentials(CA, Subject("operator", "anna"))
    async with server(tls(SERVER)) as target, watching(target, own, 200) as watches:
        refused = [watch for watch in watches if watch.done()]
        assert len(refused) == 200 - door.MOST_OF_METHOD
        assert {await watch.code() for watch in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await refused[0].details() == "32 calls of Watch with one key are in progress"
        assert not await allowed(target, own, "Health/Watch") and await allowed(target, own)
        assert await allowed(target, operator) and await allowed(target, operator, "Health/Watch")


async def test_methods_of_one_key_share_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_OF_KEY", 20)
    own, other = (certificates.make_credentials(CA, Subject("viewer", name)) for name in ("anna", "bert"))
    async with server(tls(SERVER)) as target, watching(target, own, 20) as watches:
        assert not any(watch.done() for watch in watches)
        assert not await allowed(target, own) and await allowed(target, other)


async def test_places_are_free_again_after_the_calls() -> None:
    own = certificates.make_credentials(CA, Subject("viewer", "n1"))
    async with server(tls(SERVER)) as target:
        for _ in range(3):
            is_free = False
            while not is_free:  # the server learns some turns later that the calls before have ended
                async with watching(target, own, door.MOST_OF_METHOD) as watches:
                    is_free = not any(watch.done() for watch in watches)


async def test_viewers_leave_places_for_operators_and_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_OF_ROLE", {**door.MOST_OF_ROLE, "viewer": 40})
    keys = [certificates.make_credentials(CA, Subject("viewer", f"v{i}")) for i in range(3)]
    async with server(tls(SERVER)) as target, AsyncExitStack() as stack:
        taken = [await stack.enter_async_context(watching(target, own, 20)) for own in keys]
        assert [sum(not watch.done() for watch in watches) for watches in taken] == [20, 20, 0]
        assert not await allowed(target, keys[0])
        for role in ("operator", "node"):
            assert await allowed(target, certificates.make_credentials(CA, Subject(role, "n1")))  # type: ignore[arg-type]


async def test_call_without_its_request_takes_a_place_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "MOST_OF_METHOD", 1)
    monkeypatch.setattr(door, "_REQUEST_S", 1.0)
    own = certificates.make_credentials(CA, Subject("viewer", "anna"))
    async with server(tls(SERVER)) as target, channel(target, tls(own), SERVER_NAME) as there:
        silent = there.stream_stream("/edgenode.v1.OperatorService/Status")()
        await silent.wait_for_connection()
        assert not await allowed(target, own)
        with pytest.raises(grpc.aio.AioRpcError):
            await silent.read()
        assert await silent.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await silent.details() == "no request in 1 s"
        assert await allowed(target, own)


async def test_messages_of_calls_that_ended_do_not_wait_for_the_garbage_collector() -> None:
    identity = Identity("home", "n1", "another run", process="x" * (4 << 20)).to_wire()
    report = control_pb2.AttendRequest(join=control_pb2.Join(identity=identity)).SerializeToString()
    greeting = peer_pb2.MeetRequest(identity=identity).SerializeToString()
    own = certificates.make_credentials(CA, Subject("node", "n1"))
    async with server(tls(SERVER)) as target, channel(target, tls(own), SERVER_NAME) as there:
        gc.disable()
        tracemalloc.start(1)
        try:
            for _ in range(5):
                attend = there.stream_stream("/edgenode.v1.ControlService/Attend")()
                await attend.write(report)
                assert await attend.code() is grpc.StatusCode.FAILED_PRECONDITION
                await there.unary_unary("/edgenode.v1.PeerService/Meet")(greeting, timeout=5)
            kept = tracemalloc.get_traced_memory()[0]
            assert kept < 3 * len(report)
        finally:
            tracemalloc.stop()
            gc.enable()


async def test_revocation_ends_a_call_that_waits_for_its_reader() -> None:
    own, serving_side, ended = (
        certificates.make_credentials(CA, Subject("viewer", "anna")),
        tls(SERVER),
        asyncio.Event(),
    )

    async def endless(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            ended.set()

    def add(server: grpc.aio.Server) -> None:
        watch = {"Watch": grpc.unary_stream_rpc_method_handler(endless)}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(operator_server.SERVICE, watch)])

    services = [(operator_server.SERVICE, add)]
    async with serving(ANY, services, grace_s=0, security=serving_side) as port:
        target = f"127.0.0.1:{port}"
        async with channel(target, tls(own), SERVER_NAME) as there:
            call = there.unary_stream(f"/{operator_server.SERVICE}/Watch")(b"")
            await call.read()
            await asyncio.sleep(0.3)  # until the window is full
            serving_side.revoke([own.key_id])
            async with asyncio.timeout(2):
                await ended.wait()


def strangers() -> dict[str, Security]:
    operator, other = Subject("operator", "anna"), certificates.make_authority("home")
    mine, theirs = certificates.make_credentials(CA, operator), certificates.make_credentials(other, operator)
    own = certificates.make_key()
    return {
        "plaintext": INSECURE,
        "no certificate": _Anonymous(),
        "another authority": tls(Credentials(theirs.key, theirs.certificate, CA.certificate)),
        "an expired certificate": tls(certificates.make_credentials(CA, operator, timedelta(days=-1))),
        "another key": tls(Credentials(own, mine.certificate, CA.certificate)),
    }


class _Anonymous(MutualTls):
    """A client that knows the CA and has no certificate."""

    def __init__(self) -> None:
        super().__init__(CA, lambda subject, key_id: True)

    def channel(self, target, server, options):  # type: ignore[no-untyped-def]
        ours = grpc.ssl_channel_credentials(CA.certificate)
        return grpc.aio.secure_channel(target, ours, options=[*options, ("grpc.ssl_target_name_override", server)])


@pytest.mark.parametrize("stranger", strangers())
async def test_stranger_reaches_no_method(stranger: str) -> None:
    async with server(tls(SERVER)) as target, channel(target, strangers()[stranger], SERVER_NAME) as there:
        for method in METHODS:
            assert await method.call(there) is grpc.StatusCode.UNAVAILABLE, method.name


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (Subject("node", "n2"), SERVER_NAME),
        (Subject("viewer", "n0"), SERVER_NAME),
        (CONTROLLER, SERVER_NAME),
        (SERVER.subject, CONTROLLER.dns_name),
        (SERVER.subject, role_dns_name("controller")),
    ],
)
async def test_client_refuses_a_server_of_another_name_or_role(shown: Subject, wanted: str) -> None:
    other = certificates.make_credentials(CA, shown)
    async with server(tls(other)) as target, channel(target, tls(SERVER), wanted) as there:
        assert await METHODS[0].call(there) is grpc.StatusCode.UNAVAILABLE


async def test_client_refuses_a_server_of_another_authority() -> None:
    other = certificates.make_credentials(certificates.make_authority("home"), SERVER.subject)
    async with server(tls(other)) as target, channel(target, tls(SERVER), SERVER_NAME) as there:
        assert await METHODS[0].call(there) is grpc.StatusCode.UNAVAILABLE


async def test_server_shows_a_renewed_certificate() -> None:
    other = certificates.make_credentials(CA, Subject("node", "n9"))
    serving_side = tls(SERVER)
    async with server(serving_side) as target:
        serving_side.renew(other)
        async with channel(target, tls(SERVER), other.subject.dns_name) as there:
            check = next(method for method in METHODS if method.name.endswith("Health/Check"))
            assert await check.call(there) is grpc.StatusCode.OK


async def test_role_name_is_enough_to_find_a_node() -> None:
    node = tls(certificates.make_credentials(CA, Subject("node", "n1")))
    async with server(tls(SERVER)) as target, channel(target, node, role_dns_name("node")) as there:
        check = next(method for method in METHODS if method.name.endswith("Health/Check"))
        assert await check.call(there) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    "method", ["PeerService/Push", "PeerService/Meet", "PeerService/FetchModel", "ControlService/Attend"]
)
async def test_node_speaks_under_its_own_name_only(method: str) -> None:
    other = Identity("home", "n2", "run", process="p").to_wire()
    request = {
        "Push": peer_pb2.PushRequest(hello=other),
        "Meet": peer_pb2.MeetRequest(identity=other),
        "FetchModel": peer_pb2.FetchModelRequest(identity=other),
        "Attend": control_pb2.AttendRequest(join=control_pb2.Join(identity=other, address="127.0.0.1:1")),
    }[method.partition("/")[2]]
    node = tls(certificates.make_credentials(CA, Subject("node", "n1")))
    called = next(m for m in METHODS if m.name.endswith(method))
    async with server(tls(SERVER)) as target, channel(target, node, SERVER_NAME) as there:
        assert await called.call(there, request.SerializeToString()) is grpc.StatusCode.FAILED_PRECONDITION


async def test_grpc_takes_a_certificate_only_if_it_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one that it takes replaces what other handshakes use: it crashed under many connections at once."""
    ask = []
    make = grpc.dynamic_ssl_server_credentials
    monkeypatch.setattr(
        grpc, "dynamic_ssl_server_credentials", lambda first, newer, **kw: ask.append(newer) or make(first, newer, **kw)
    )
    ca = certificates.make_authority("home")
    security = MutualTls(certificates.make_credentials(ca, CONTROLLER), lambda subject, key_id: True)
    for _ in range(2):
        security.bind(security.server((), lambda context, key_id: None), "127.0.0.1:0")
    assert [newer() for newer in ask] == [None, None]
    security.renew(certificates.make_credentials(ca, CONTROLLER))
    assert None not in [newer() for newer in ask]
    assert [newer() for newer in ask] == [None, None]
