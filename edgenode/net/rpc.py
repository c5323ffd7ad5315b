"""The shared part of all gRPC clients and servers: options, addresses, and the translation of errors."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from traceback import clear_frames
from typing import TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgenode.addresses import split_address
from edgenode.errors import ConfigError, EdgenodeError, RemoteProtocolError, SecurityError, TransportError
from edgenode.net.front import Front, PrivateAddress, peer_of
from edgenode.net.limited_log import address_of, limited
from edgenode.net.listener import bind, why_not
from edgenode.net.open_files import places_for_links
from edgenode.net.reasons import failure, why
from edgenode.net.retry import CONNECT_S
from edgenode.net.tls import INSECURE, Security
from edgenode.security.subject import Role, role_dns_name

log = structlog.get_logger()

# Links are idle during a long local step, so both sides send pings, and the server allows them. A link whose other end
# vanished is detected within 20 s, before the failure detector would evict its node.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# What a stream may send ahead of its reader. gRPC's default follows its probes of the bandwidth, and a flood sometimes
# took 60 MB of the receiver's memory. gRPC returns what was read in halves of the window, so this one still allows a
# stream at least 10 MB/s at a round trip of 200 ms.
_MOST_AHEAD = 4 << 20
_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", _MOST_AHEAD)]
# A node without a plan receives the whole plan. After thousands of changes it exceeds gRPC's default of 4 MiB.
_MOST_RECEIVED = 64 << 20
_CHANNEL = [
    *_KEEPALIVE,
    *_WINDOW,
    ("grpc.max_receive_message_length", _MOST_RECEIVED),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_HANDSHAKE_MS = 10_000
_MOST_STREAMS = 100  # of a connection. Its client keeps others back
_SERVER = [
    *_KEEPALIVE,
    *_WINDOW,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
    ("grpc.max_concurrent_streams", _MOST_STREAMS),
]
_CALLS_END_S = 0.2
_FINAL = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)

_SERVING: tuple[Role, ...] = ("node", "controller", "relay")

_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

S = TypeVar("S")
T = TypeVar("T")
W = TypeVar("W")
Services = Sequence[tuple[str, Callable[[grpc.aio.Server], None]]]
"""The full name of each service of a server, and what adds it."""


def channel(
    target: str, security: Security = INSECURE, server: str = "", connect_s: float = CONNECT_S
) -> grpc.aio.Channel:
    """A lazy channel to host:port, where the server's certificate must have the DNS name ``server``.

    Args:
        connect_s: the time that a TCP connection and its TLS handshake have.
    """
    return security.channel(target, server, [*_CHANNEL, ("grpc.min_reconnect_backoff_ms", round(1_000 * connect_s))])


@asynccontextmanager
async def serving(
    listen: str,
    services: Services,
    grace_s: float = 2.0,
    reflection: bool = False,
    security: Security = INSECURE,
    most_received: int = _MOST_RECEIVED,
) -> AsyncIterator[int]:
    """Serve (full name, adder) pairs, and the health service. With ``reflection``, clients can list all of them.

    A message of more than ``most_received`` bytes ends its call. Yields the port.

    Raises:
        ConfigError: the address cannot be bound, or the extra `reflection` is not installed.
    """
    sockets = _bind(listen)
    async with AsyncExitStack() as stack:
        for bound in sockets:
            stack.callback(bound.close)
        private = stack.enter_context(PrivateAddress())
        front = Front(private, security is not INSECURE, places_for_links())
        server = security.server([*_SERVER, ("grpc.max_receive_message_length", most_received)], front.prove)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        for name, add in services:
            add(server)
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        if reflection:
            _enable_reflection(server, [*(name for name, _ in services), health.SERVICE_NAME])
        security.bind(server, f"unix:{private.name}")
        await server.start()
        private.hide()

        async def stop() -> None:
            await checks.enter_graceful_shutdown()
            await server.stop(grace_s)
            await _calls_ended()

        async with front.open(sockets, stop):
            yield sockets[0].getsockname()[1]


def _enable_reflection(server: grpc.aio.Server, names: Sequence[str]) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError as exc:
        raise ConfigError("--reflection needs grpcio-reflection: pip install 'edgenode[reflection]'") from exc
    reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)


async def _calls_ended() -> None:
    """Wait for gRPC's tasks of aborted calls. They end some turns of the loop later, and print traces if cancelled."""
    if calls := [task for task in asyncio.all_tasks() if task.get_name() == "rpc_task"]:
        await asyncio.wait(calls, timeout=_CALLS_END_S)


def _bind(listen: str) -> list[socket.socket]:
    try:
        return bind(listen)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {listen}: {why_not(exc)}") from exc


async def serves(target: str, timeout_s: float, security: Security | None = INSECURE) -> None:
    """Ask the health service of a node, a controller or a relay at host:port.

    Args:
        security: None if this process has no certificate. Then it is only checked that a server with TLS is there.

    Raises:
        TransportError: there is no answer in time, or the server is not serving.
        SecurityError: it refuses this process.
        ConfigError: it is not an address.
    """
    split_address(target)
    if security is None:
        await _shows_a_certificate(target, timeout_s)
        return
    roles = _SERVING[:1] if security is INSECURE else _SERVING
    for role in roles:
        try:
            await _is_healthy(target, timeout_s, security, role_dns_name(role))
        except TransportError:
            if role == roles[-1]:
                raise
            await _shows_a_certificate(target, timeout_s)  # otherwise the other roles would only take more time
        else:
            return


async def accepts(target: str, timeout_s: float, security: Security, server: str) -> bool:
    """Return whether the handshake with host:port succeeds in time, with a certificate that has a DNS name."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s), channel(target, security, server) as there:
            await there.channel_ready()
            return True
    return False


async def _is_healthy(target: str, timeout_s: float, security: Security, server: str) -> None:
    async with channel(target, security, server) as there:
        try:
            stub = health_pb2_grpc.HealthStub(there)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise refused(exc, target) from exc
            raise failure(f"no server answers at {target}", exc) from exc
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise TransportError(f"{target} is not serving")


async def _shows_a_certificate(target: str, timeout_s: float) -> None:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    unverified.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(*split_address(target), ssl=unverified)
        writer.transport.abort()
    except OSError as exc:
        raise failure(f"no server answers at {target}", exc) from exc


def refuse_beyond_loopback(listen: str, option: str = "--listen") -> None:
    """Refuse an address that is not on loopback. Without TLS, everybody who reaches it may do everything.

    Args:
        option: the command line option that chose the address.

    Raises:
        ConfigError: the address is not of the loopback interface.
    """
    if split_address(listen)[0] not in _LOOPBACK_HOSTS:
        raise ConfigError(
            f"--insecure works on loopback only, but {option} is {listen}: anyone on the network could stop the run; "
            f"choose {option} 127.0.0.1:0, or enrol the devices (edgenode invite)"
        )


def address_towards(target: str) -> str:
    """The local IP address on the route to host:port, which others can dial.

    Raises:
        TransportError: there is no route.
    """
    host, port = split_address(target)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing, only selects the route
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise failure(f"no route to {target}", exc) from exc


async def side_by_side(work: Mapping[str, Callable[[S], Awaitable[None]]], stream: S) -> None:
    """Do named work on a stream until all of it is done. The first failure cancels the rest.

    A task group of Python 3.11 loses a cancellation from outside that coincides with a failure inside. A link would
    then dial again for ever, although its owner has cancelled it and waits for its end. So no failure reaches the task
    group here.

    Raises:
        ExceptionGroup: the failures.
    """
    failures: list[Exception] = []

    async def guarded(one: Callable[[S], Awaitable[None]]) -> None:
        try:
            await one(stream)
        except Exception as exc:
            failures.append(exc)
            for task in tasks:
                task.cancel()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(guarded(one), name=name) for name, one in work.items()]
    if failures:
        raise ExceptionGroup("work on a stream failed", failures)


async def parsed(parse: Callable[[W], T], wire: W, has_records: bool) -> T:
    """Parse a message: in a thread if it has records, as the graphs of one can take some 50 ms to check."""
    return await asyncio.to_thread(parse, wire) if has_records else parse(wire)


def refused(error: grpc.aio.AioRpcError, target: str) -> EdgenodeError:
    """Return the error of a failed call, by its cause: the request, the rights, the state or the network."""
    reason = error.details() or why(error)
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return ConfigError(reason)
        case grpc.StatusCode.PERMISSION_DENIED:
            return SecurityError(f"{target} refuses: {reason}")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return RemoteProtocolError(reason)
    return failure(target, error)


def denied(error: Exception) -> str:
    """Return why the door of a server refused a stream. Empty if the stream failed for another reason."""
    causes = list(error.exceptions) if isinstance(error, ExceptionGroup) else [error]
    for cause in causes:
        if isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.PERMISSION_DENIED:
            return cause.details() or "refused"
    return ""


def broken(error: Exception, target: str) -> EdgenodeError:
    """Return the error that ended a stream. A TransportError means that a new stream can succeed.

    A refusal for good has a status of its own, and becomes a RemoteProtocolError. It takes precedence, because the
    other tasks of the stream fail as a result of it. Errors that are neither gRPC's nor ours are raised.
    """
    causes = list(error.exceptions) if isinstance(error, ExceptionGroup) else [error]
    for cause in causes:
        if isinstance(cause, grpc.aio.AioRpcError) and cause.code() in _FINAL:
            return RemoteProtocolError(f"refused by {target}: {cause.details() or why(cause)}")
    for cause in causes:
        if isinstance(cause, grpc.aio.AioRpcError):
            return failure(target, cause)
        if isinstance(cause, EdgenodeError):
            return cause
        if not isinstance(cause, asyncio.InvalidStateError):  # gRPC: the call has already ended
            raise cause
    return TransportError(f"{target}: the stream has ended")


async def reject(context: grpc.aio.ServicerContext, error: BaseException, peer: str = "") -> None:
    """Log one of our errors, and end a call with it. Other errors are raised."""
    if isinstance(error, EdgenodeError):
        who, why = peer or peer_of(context), str(error)
        limited(log.warning, "refused a call", peer or address_of(who), why, peer=who, reason=why)
    await refuse(context, error)


@asynccontextmanager
async def rejecting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Log an error of ours that the body raises, and end the call with it."""
    try:
        yield
    except EdgenodeError as exc:
        await reject(context, exc)


async def refuse(context: grpc.aio.ServicerContext, error: BaseException) -> None:
    """End a call with one of our errors. The client receives its text. Other errors are raised."""
    if not isinstance(error, EdgenodeError):
        raise error
    match error:
        case ConfigError():
            code = grpc.StatusCode.INVALID_ARGUMENT
        case TransportError():
            code = grpc.StatusCode.ABORTED
        case _:
            code = grpc.StatusCode.FAILED_PRECONDITION
    clear_frames(error.__traceback__)  # they have the message, in a cycle with the caller's variables
    await context.abort(code, str(error))
