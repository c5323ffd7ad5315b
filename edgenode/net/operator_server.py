"""The controller's end of the operator service: status, and requests that change a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

import grpc.aio

from edgenode.core.protocol.events import Reply
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.errors import EdgenodeError
from edgenode.net.graph_wire import graph_from_wire
from edgenode.net.proto import operator_pb2, operator_pb2_grpc
from edgenode.net.rpc import reject
from edgenode.net.status_wire import CLUSTER_STATUS
from edgenode.net.tls import Caller, caller, caller_name

SERVICE = "edgenode.v1.OperatorService"
_WATCH_EVERY_S = 0.25


class RunControl(Protocol):
    """The requests of an operator. Each returns a reply or a round, or raises EdgenodeError.

    ``by`` names the operator. With ``wait``, the reply to a queued change comes when its round is known.
    """

    def status(self) -> ClusterStatus: ...
    def open_page(self, who: Caller | None) -> str: ...
    async def rotate(self, by: str, graphs: tuple[GraphSpec, ...], period: Period, wait: bool = False) -> Reply: ...
    async def stop(self, by: str, wait: bool = False) -> Reply: ...
    async def extend(self, by: str, rounds: int, wait: bool = False) -> Reply: ...
    async def pause(self, by: str) -> int: ...
    async def resume(self, by: str) -> int: ...
    async def evict(self, by: str, node: str, force: bool) -> Reply: ...


class OperatorServer(operator_pb2_grpc.OperatorServiceServicer):
    """Answers operators' calls."""

    def __init__(self, run: RunControl) -> None:
        self._run = run
        self._over = asyncio.Event()

    def end(self) -> None:
        """The run is over: send the last status to every watching client, and end its stream."""
        self._over.set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        operator_pb2_grpc.add_OperatorServiceServicer_to_server(self, server)

    async def Status(
        self, request: operator_pb2.StatusRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.StatusResponse:
        """The current status."""
        return operator_pb2.StatusResponse(status=self._status())

    async def Watch(
        self, request: operator_pb2.WatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[operator_pb2.WatchResponse]:
        """The status every _WATCH_EVERY_S, until the run is over."""
        while not self._over.is_set():
            yield operator_pb2.WatchResponse(status=self._status())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), _WATCH_EVERY_S)
        yield operator_pb2.WatchResponse(status=self._status())

    async def OpenPage(
        self, request: operator_pb2.OpenPageRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.OpenPageResponse:
        """A link to the page, for the caller."""
        async with _rejecting(context):
            return operator_pb2.OpenPageResponse(link=self._run.open_page(caller(context)))

    async def Rotate(
        self, request: operator_pb2.RotateRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.RotateResponse:
        """Change the graphs."""
        async with _rejecting(context):
            graphs = tuple(graph_from_wire(g) for g in request.graphs)
            period = Period(request.every, "epochs" if request.epochs else "rounds")
            reply = await self._run.rotate(caller_name(context), graphs, period, wait=not request.may_queue)
            return operator_pb2.RotateResponse(
                start=reply.start or 0,
                queued=_queued(reply),
                replaces=reply.replaces,
                difference=reply.difference,
                held_by=reply.held_by,
            )

    async def Stop(
        self, request: operator_pb2.StopRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.StopResponse:
        """Stop the run before the same round at every node."""
        async with _rejecting(context):
            reply = await self._run.stop(caller_name(context), wait=not request.may_queue)
            return operator_pb2.StopResponse(start=reply.start or 0, queued=_queued(reply), held_by=reply.held_by)

    async def Extend(
        self, request: operator_pb2.ExtendRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.ExtendResponse:
        """Train for more rounds."""
        async with _rejecting(context):
            reply = await self._run.extend(caller_name(context), request.rounds, wait=not request.may_queue)
            return operator_pb2.ExtendResponse(start=reply.start or 0, queued=_queued(reply), held_by=reply.held_by)

    async def Pause(
        self, request: operator_pb2.PauseRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.PauseResponse:
        """Pause the run."""
        async with _rejecting(context):
            return operator_pb2.PauseResponse(round=await self._run.pause(caller_name(context)))

    async def Resume(
        self, request: operator_pb2.ResumeRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.ResumeResponse:
        """Resume a paused run."""
        async with _rejecting(context):
            return operator_pb2.ResumeResponse(round=await self._run.resume(caller_name(context)))

    async def Evict(
        self, request: operator_pb2.EvictRequest, context: grpc.aio.ServicerContext
    ) -> operator_pb2.EvictResponse:
        """Evict a member."""
        async with _rejecting(context):
            reply = await self._run.evict(caller_name(context), request.node, request.force)
            return operator_pb2.EvictResponse(start=reply.start or 0, difference=reply.difference)

    def _status(self) -> operator_pb2.ClusterStatus:
        return CLUSTER_STATUS.to_wire(self._run.status())


def _queued(reply: Reply) -> operator_pb2.Queued | None:
    if not reply.waits_for:
        return None
    return operator_pb2.Queued(waits_for=reply.waits_for, earliest=reply.earliest or 0)


@asynccontextmanager
async def _rejecting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """End the call with the text of an error of ours."""
    try:
        yield
    except EdgenodeError as exc:
        await reject(context, exc)
