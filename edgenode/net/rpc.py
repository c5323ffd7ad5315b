"""What all gRPC ends share: channel and server options, addresses, errors translated at this edge."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgenode.errors import ConfigError, EdgenodeError, RemoteProtocolError, TransportError

log = structlog.get_logger()

# Links lie idle through a long local step, so both sides ping, and the server allows it. A link whose other end is
# gone without a word is found out in 20 s: before its owner would be taken for dead.
_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# A plan travels whole to whoever has none: after thousands of changes, more than the 4 MiB that gRPC takes by itself.
_SIZES = [("grpc.max_receive_message_length", 64 << 20)]
_CHANNEL = [
    *_KEEPALIVE,
    *_SIZES,
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_SERVER = [*_KEEPALIVE, *_SIZES, ("grpc.http2.min_ping_interval_without_data_ms", 5_000), ("grpc.so_reuseport", 0)]
_CALLS_END_S = 0.2
_FINAL = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)

S = TypeVar("S")


def channel(target: str) -> grpc.aio.Channel:
    """A lazy channel to host:port."""
    return grpc.aio.insecure_channel(target, options=_CHANNEL)


@asynccontextmanager
async def serving(
    listen: str, services: Sequence[tuple[str, Callable[[grpc.aio.Server], None]]], grace_s: float = 2.0
) -> AsyncIterator[int]:
    """Serve (full name, adder) pairs, health and reflection beside them; yields the port.

    Raises:
        ConfigError: the address cannot be bound.
    """
    server = grpc.aio.server(options=_SERVER)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name, add in services:
        add(server)
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    names = [*(name for name, _ in services), health.SERVICE_NAME, reflection.SERVICE_NAME]
    reflection.enable_server_reflection(names, server)
    port = _bind(server, listen)
    await server.start()
    try:
        yield port
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(grace_s)
        await _calls_ended()


async def _calls_ended() -> None:
    """gRPC's tasks of calls that it cut off end some turns of the loop later; cancelled before, they print traces."""
    if calls := [task for task in asyncio.all_tasks() if task.get_name() == "rpc_task"]:
        await asyncio.wait(calls, timeout=_CALLS_END_S)


def _bind(server: grpc.aio.Server, listen: str) -> int:
    try:
        return int(server.add_insecure_port(listen))
    except RuntimeError as exc:
        raise ConfigError(f"cannot listen on {listen}: {_why_not(listen)}") from exc


def _why_not(listen: str) -> str:
    """gRPC hides the reason; the same bind on a plain socket tells it."""
    host, port = split_address(listen)
    try:
        family, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except OSError as exc:
        return (exc.strerror or str(exc)).lower()
    return "the address is not available"


async def serves(target: str, timeout_s: float) -> None:
    """Ask the health service at host:port.

    Raises:
        TransportError: nobody answers in time, or it does not serve.
        ConfigError: it is no address.
    """
    split_address(target)
    async with channel(target) as there:
        try:
            stub = health_pb2_grpc.HealthStub(there)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise TransportError(f"nobody serves at {target}: {exc.code().name.lower().replace('_', ' ')}") from exc
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise TransportError(f"{target} is not serving")


def split_address(address: str) -> tuple[str, int]:
    """host:port, IPv6 in brackets.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"{address!r} is no address: expected host:port")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_towards(target: str) -> str:
    """The local IP address from which a host is reached: what to tell others to dial."""
    host, port = split_address(target)
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing: only picks the route
            return str(probe.getsockname()[0])
    except OSError as exc:
        raise TransportError(f"no route to {target}: {exc}") from exc


async def side_by_side(work: Mapping[str, Callable[[S], Awaitable[None]]], stream: S) -> None:
    """Do named work on a stream until all is done, or until some of it fails: then the rest is cancelled.

    A bare task group, on Python 3.11, forgets a cancellation from outside that meets a failure inside. A link would
    then dial again, for ever, although its owner waits for its end.

    Raises:
        ExceptionGroup: what failed.
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
        raise ExceptionGroup("what ran side by side failed", failures)


def translated(error: grpc.aio.AioRpcError, target: str) -> TransportError:
    """A gRPC failure as ours, in one line."""
    return TransportError(f"{target}: {error.code().name.lower().replace('_', ' ')}: {error.details()}")


def broken(error: Exception, target: str) -> EdgenodeError:
    """What ended a stream, whatever task of it noticed: TransportError if a new stream may go on.

    A peer that refused us for good said so with a status of its own: RemoteProtocolError.
    """
    causes = list(error.exceptions) if isinstance(error, ExceptionGroup) else [error]
    for cause in causes:
        if isinstance(cause, grpc.aio.AioRpcError) and cause.code() in _FINAL:
            return RemoteProtocolError(f"refused by {target}: {cause.details()}")
    for cause in causes:
        if isinstance(cause, grpc.aio.AioRpcError):
            return translated(cause, target)
        if isinstance(cause, EdgenodeError):
            return cause
        if not isinstance(cause, asyncio.InvalidStateError):  # gRPC: the call is over already
            raise cause
    return TransportError(f"{target}: the stream is over")


async def reject(context: grpc.aio.ServicerContext, error: BaseException, whom: str = "") -> None:
    """End a call with one of our errors; the other side reads its text. Anything else is raised as it is."""
    if not isinstance(error, EdgenodeError):
        raise error
    log.warning("refused a call", peer=whom or context.peer(), reason=str(error))
    code = grpc.StatusCode.INVALID_ARGUMENT if isinstance(error, ConfigError) else grpc.StatusCode.FAILED_PRECONDITION
    await context.abort(code, str(error))
