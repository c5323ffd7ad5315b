"""The operator's way in: status and wishes. The controller serves it, the command line calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import ConfigError, EdgenodeError, RemoteProtocolError, TransportError
from edgenode.net.proto import operator_pb2, operator_pb2_grpc
from edgenode.net.rpc import channel, reject, translated
from edgenode.net.status_wire import cluster_status_from_wire, cluster_status_to_wire
from edgenode.net.wire import graph_from_wire, graph_to_wire

SERVICE = "edgenode.v1.OperatorService"
_WATCH_EVERY_S = 0.25

R = TypeVar("R")


class Wishes(Protocol):
    """What an operator may ask of a cluster; each wish returns a round, or raises EdgenodeError."""

    def status(self) -> ClusterStatus: ...
    async def rotate(self, graphs: tuple[GraphSpec, ...], every: int, epochs: bool) -> int: ...
    async def stop(self) -> int: ...
    async def pause(self) -> int: ...
    async def resume(self) -> int: ...
    async def evict(self, node: str, force: bool) -> int: ...


class OperatorServer(operator_pb2_grpc.OperatorServiceServicer):
    """Takes operators' calls."""

    def __init__(self, operator_service: Wishes) -> None:
        self._desk = operator_service
        self._over = asyncio.Event()

    def end(self) -> None:
        """The run is over: those who watch get the last status, and the end."""
        self._over.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(self, server)

    async def Status(
        self, request: operator_pb2.StatusRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.StatusResponse:
        """The cluster as it is now."""
        return operator_pb2.StatusResponse(status=cluster_status_to_wire(self._desk.status()))

    async def Watch(
        self, request: operator_pb2.WatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[operator_pb2.WatchResponse]:
        """The cluster as it goes on, sampled."""
        while not self._over.is_set():
            yield operator_pb2.WatchResponse(status=cluster_status_to_wire(self._desk.status()))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _WATCH_EVERY_S)
        yield operator_pb2.WatchResponse(status=cluster_status_to_wire(self._desk.status()))

    async def Rotate(
        self, request: operator_pb2.RotateRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.RotateResponse:
        """Change the graphs."""
        async with _rejecting(context):
            graphs = tuple(graph_from_wire(g) for g in request.graphs)
            return operator_pb2.RotateResponse(start=await self._desk.rotate(graphs, request.every, request.epochs))

    async def Stop(
        self, request: operator_pb2.StopRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.StopResponse:
        """Stop the run at one round for all."""
        async with _rejecting(context):
            return operator_pb2.StopResponse(start=await self._desk.stop())

    async def Pause(
        self, request: operator_pb2.PauseRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.PauseResponse:
        """Let everyone stand still."""
        async with _rejecting(context):
            return operator_pb2.PauseResponse(round=await self._desk.pause())

    async def Resume(
        self, request: operator_pb2.ResumeRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.ResumeResponse:
        """Let everyone go on."""
        async with _rejecting(context):
            return operator_pb2.ResumeResponse(round=await self._desk.resume())

    async def Evict(
        self, request: operator_pb2.EvictRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.EvictResponse:
        """Go on without a member."""
        async with _rejecting(context):
            return operator_pb2.EvictResponse(start=await self._desk.evict(request.node, request.force))


@asynccontextmanager
async def _rejecting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """An error of ours ends the call; the operator reads its text."""
    try:
        yield
    except EdgenodeError as exc:
        await reject(context, exc)


class Operator:
    """A controller as the command line sees it."""

    def __init__(self, stub: operator_pb2_grpc.OperatorServiceStub, target: str) -> None:
        self._stub, self._target = stub, target

    async def status(self) -> ClusterStatus:
        """The cluster as it is now."""
        response: operator_pb2.StatusResponse = await self._called(
            self._stub.Status(operator_pb2.StatusRequest(), timeout=10)
        )
        return cluster_status_from_wire(response.status)

    async def watch(self) -> AsyncIterator[ClusterStatus]:
        """The cluster as it goes on.

        Raises:
            TransportError: the controller is gone.
        """
        try:
            async for response in self._stub.Watch(operator_pb2.WatchRequest()):
                yield cluster_status_from_wire(response.status)
        except grpc.aio.AioRpcError as exc:
            raise translated(exc, self._target) from exc

    async def rotate(self, graphs: Sequence[GraphSpec], every: int, epochs: bool) -> int:
        """Change the graphs; returns the round at which every node switches.

        Raises:
            ConfigError: the controller refuses the graphs, with its reason.
        """
        request = operator_pb2.RotateRequest(graphs=[graph_to_wire(g) for g in graphs], every=every, epochs=epochs)
        return int((await self._called(self._stub.Rotate(request))).start)

    async def stop(self) -> int:
        """Stop the run; returns the round before which every node stops."""
        return int((await self._called(self._stub.Stop(operator_pb2.StopRequest()))).start)

    async def pause(self) -> int:
        """Let every node stand still; returns the newest round that one was known to be in."""
        return int((await self._called(self._stub.Pause(operator_pb2.PauseRequest()))).round)

    async def resume(self) -> int:
        """Let every node go on; returns the newest round that one was known to be in."""
        return int((await self._called(self._stub.Resume(operator_pb2.ResumeRequest()))).round)

    async def evict(self, node: str, force: bool) -> int:
        """Go on without a member; returns the round from which it is out.

        Raises:
            ConfigError: it is no member, or too few would be left.
        """
        request = operator_pb2.EvictRequest(node=node, force=force)
        return int((await self._called(self._stub.Evict(request))).start)

    async def _called(self, call: Awaitable[R]) -> R:
        try:
            return await call
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ConfigError(exc.details() or "refused") from exc
            if exc.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise RemoteProtocolError(exc.details() or "refused") from exc
            raise translated(exc, self._target) from exc


@asynccontextmanager
async def operating(target: str, timeout_s: float = 10.0) -> AsyncIterator[Operator]:
    """A controller at host:port.

    Raises:
        TransportError: nothing answers there in time.
    """
    async with channel(target) as to_controller:
        try:
            await asyncio.wait_for(to_controller.channel_ready(), timeout_s)
        except TimeoutError as exc:
            raise TransportError(f"no controller answers at {target} (waited {timeout_s:g} s)") from exc
        yield Operator(operator_pb2_grpc.OperatorServiceStub(to_controller), target)
