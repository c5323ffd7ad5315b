"""Serving, addresses, and the errors of failed calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import ConfigError, RemoteProtocolError, TransportError
from edgenode.net import control_server, operator_server, peer_server, rpc
from edgenode.net.control_server import ControlServer
from edgenode.net.faults import Faults
from edgenode.net.operator_server import OperatorServer
from edgenode.net.peer_server import PeerServer
from edgenode.net.rpc import address_towards, broken, channel, refuse_beyond_loopback, reject, serves, serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.subject import CONTROLLER, Subject
from tests.floods.connections import HELLO

ANY = "127.0.0.1:0"
IDENTITY = Identity("home", "n0", "run")


def all_services() -> list[tuple[str, object]]:
    controller = ControlServer(IDENTITY, lambda event: None, lambda node, status: None, str, Faults())
    return [
        (peer_server.SERVICE, PeerServer(IDENTITY, (frozenset(), None)).add_to),
        (control_server.SERVICE, controller.add_to),
        (operator_server.SERVICE, OperatorServer(SimpleNamespace(status=lambda: ClusterStatus("home"))).add_to),
    ]


@pytest.mark.parametrize("service", ["", peer_server.SERVICE, control_server.SERVICE, operator_server.SERVICE])
async def test_health_reports_the_process_and_each_service_serving(service: str) -> None:
    async with serving(ANY, all_services()) as port, channel(f"127.0.0.1:{port}") as there:  # type: ignore[arg-type]
        reply = await health_pb2_grpc.HealthStub(there).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("role", [Subject("node", "n0"), CONTROLLER, Subject("relay", "fra")], ids=str)
@pytest.mark.parametrize("asker", [Subject("node", "n1"), Subject("operator", "ana"), Subject("relay", "ber")], ids=str)
async def test_daemon_of_every_role_says_that_it_serves(role: Subject, asker: Subject) -> None:
    authority = make_authority("home")
    own, theirs = (MutualTls(make_credentials(authority, one), lambda *_: True) for one in (role, asker))
    async with serving(ANY, [], 0.0, security=own) as port:
        await serves(f"127.0.0.1:{port}", 5, theirs)
        stranger = MutualTls(make_credentials(make_authority("home"), asker), lambda *_: True)
        with pytest.raises(TransportError):
            await serves(f"127.0.0.1:{port}", 5, stranger)


@pytest.mark.slow
@pytest.mark.parametrize("read_first", [0, 1000])
async def test_stream_sends_a_fixed_amount_ahead_of_its_reader(read_first: int) -> None:
    """However fast it was read before. It goes on when it is read again.

    gRPC returns what was read once it is half of the window. So after reading, up to half of it is missing.
    """
    free, read, written = asyncio.Event(), 0, 0

    async def take(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        nonlocal read
        async for _ in requests:
            read += 1
            await free.wait()

    def add(server: grpc.aio.Server) -> None:
        handler = grpc.stream_stream_rpc_method_handler(take)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Take": handler}),))

    async with serving(ANY, [("test.Test", add)], 0.0) as port, channel(f"127.0.0.1:{port}") as there:
        stream, data = there.stream_stream("/test.Test/Take")(), bytes(80_000)
        free.set()
        while written < read_first:
            await stream.write(data)
            written += 1
        free.clear()
        while (await asyncio.wait([write := asyncio.ensure_future(stream.write(data))], timeout=1))[0]:
            await write  # raises what ended it
            written += 1
        ahead, window = (written - read) * len(data), 4 << 20
        free.set()
        await asyncio.wait_for(write, 5)
        stream.cancel()
    assert (window // 2 if read_first else window) < ahead < 2 * window  # of which some is on its way


async def test_serves_needs_an_answer_that_the_server_is_serving() -> None:
    async with serving(ANY, []) as port:
        await serves(f"127.0.0.1:{port}", 5)
    with pytest.raises(TransportError, match=f"no server answers at 127.0.0.1:{port}: connection refused"):
        await serves(f"127.0.0.1:{port}", 5)
    server, checks = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    port = server.add_insecure_port(ANY)
    await server.start()
    with pytest.raises(TransportError, match="is not serving"):
        await serves(f"127.0.0.1:{port}", 5)
    await server.stop(None)


async def listed_services(port: int) -> set[str]:
    async with channel(f"127.0.0.1:{port}") as there:
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        # not as a stream, which grpc.aio writes in a task: a refusal before that becomes INTERNAL
        info = there.unary_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        return {s.name async for reply in info(asked, timeout=5) for s in reply.list_services_response.service}


async def test_reflection_lists_the_services() -> None:
    async with serving(ANY, all_services(), reflection=True) as port:  # type: ignore[arg-type]
        listed = await listed_services(port)
    assert {peer_server.SERVICE, control_server.SERVICE, operator_server.SERVICE, "grpc.health.v1.Health"} <= listed


async def test_reflection_is_off_by_default() -> None:
    async with serving(ANY, all_services()) as port:  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await listed_services(port)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_reflection_without_its_package_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    with pytest.raises(ConfigError, match=r"--reflection needs grpcio-reflection: pip install 'edgenode\[refl"):
        async with serving(ANY, [], reflection=True):
            pass


async def test_port_in_use_is_a_config_error_with_the_reason() -> None:
    async with serving(ANY, []) as port:
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            async with serving(f"127.0.0.1:{port}", []):
                pass


async def test_address_of_another_host_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192.0.2.1:0: cannot assign requested address"):
        async with serving("192.0.2.1:0", []):
            pass


async def test_port_is_free_again_after_its_server_ends() -> None:
    async with serving(ANY, []) as port:
        pass
    async with serving(f"127.0.0.1:{port}", []) as again:
        assert again == port


# --- addresses


def test_address_towards_this_host_is_its_own() -> None:
    assert address_towards("127.0.0.1:7700") == "127.0.0.1"


def test_no_route_is_a_transport_error() -> None:
    with pytest.raises(TransportError, match=r"no route to nowhere.invalid:1"):
        address_towards("nowhere.invalid:1")


# --- failures


@pytest.mark.parametrize(
    ("error", "expected"),
    [(ConfigError("bad value"), RemoteProtocolError), (RemoteProtocolError("bad frame"), RemoteProtocolError)],
)
async def test_rejected_call_arrives_as_final_with_its_text(error: Exception, expected: type[Exception]) -> None:
    assert isinstance(came := await _failure_of(lambda context: reject(context, error)), expected)
    assert str(error) in str(came)


async def test_bug_in_a_handler_allows_another_attempt() -> None:
    assert isinstance(await _failure_of(lambda context: reject(context, ZeroDivisionError())), TransportError)


async def test_ended_stream_allows_another_attempt() -> None:
    assert isinstance(broken(ExceptionGroup("", [asyncio.InvalidStateError()]), "there"), TransportError)


async def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        broken(ExceptionGroup("", [ZeroDivisionError()]), "there")


async def _failure_of(handler: object) -> Exception:
    async def fail(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await handler(context)  # type: ignore[operator]
        return b""

    methods = grpc.method_handlers_generic_handler("test", {"Fail": grpc.unary_unary_rpc_method_handler(fail)})
    add = [("test", lambda server: server.add_generic_rpc_handlers((methods,)))]
    async with serving(ANY, add) as port, channel(f"127.0.0.1:{port}") as there:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await there.unary_unary("/test/Fail")(b"", timeout=5)
    return broken(caught.value, "there")


def test_insecure_processes_listen_on_loopback_only() -> None:
    for host in ("127.0.0.1", "[::1]", "localhost"):
        refuse_beyond_loopback(f"{host}:8080")
    with pytest.raises(ConfigError, match=r"loopback only, but --http is 0\.0\.0\.0:8080"):
        refuse_beyond_loopback("0.0.0.0:8080", "--http")


async def test_half_open_handshake_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's own limit, after a whole ClientHello."""
    assert ("grpc.server_handshake_timeout_ms", 10_000) in rpc._SERVER
    monkeypatch.setattr(rpc, "_SERVER", [("grpc.server_handshake_timeout_ms", 300)])
    security = MutualTls(make_credentials(make_authority("home"), CONTROLLER), lambda subject, key_id: True)
    async with serving("127.0.0.1:0", [], 0.0, security=security) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO)
        assert await reader.read()  # the server's part of the handshake
        assert await reader.read() == b""
        writer.close()
