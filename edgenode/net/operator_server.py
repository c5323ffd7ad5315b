"""The controller's end of the operator service: status, and requests that change a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

import grpc.aio
from grpc.aio import ServicerContext

from edgenode.core.protocol.events import Reply
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.net.operator_wire import GRAPH, reply_to_wire
from edgenode.net.proto import operator_pb2 as pb
from edgenode.net.proto import operator_pb2_grpc
from edgenode.net.rpc import rejecting
from edgenode.net.status_wire import CLUSTER_STATUS
from edgenode.net.tls import caller, caller_name
from edgenode.security.subject import Caller

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

    async def Status(self, request: pb.StatusRequest, context: ServicerContext) -> pb.StatusResponse:
        """The current status."""
        return pb.StatusResponse(status=self._status())

    async def Watch(self, request: pb.WatchRequest, context: ServicerContext) -> AsyncIterator[pb.WatchResponse]:
        """The status every _WATCH_EVERY_S, until the run is over."""
        while not self._over.is_set():
            yield pb.WatchResponse(status=self._status())
            with suppress(TimeoutError):
                async with asyncio.timeout(_WATCH_EVERY_S):
                    await self._over.wait()
        yield pb.WatchResponse(status=self._status())

    async def OpenPage(self, request: pb.OpenPageRequest, context: ServicerContext) -> pb.OpenPageResponse:
        """A link to the page, for the caller."""
        async with rejecting(context):
            return pb.OpenPageResponse(link=self._run.open_page(caller(context)))

    async def Rotate(self, request: pb.RotateRequest, context: ServicerContext) -> pb.RotateResponse:
        """Change the graphs."""
        async with rejecting(context):
            graphs = tuple(map(GRAPH.from_wire, request.graphs))
            period = Period(request.every, "epochs" if request.epochs else "rounds")
            reply = await self._run.rotate(caller_name(context), graphs, period, wait=not request.may_queue)
            return reply_to_wire(reply, pb.RotateResponse)

    async def Stop(self, request: pb.StopRequest, context: ServicerContext) -> pb.StopResponse:
        """Stop the run before the same round at every node."""
        async with rejecting(context):
            reply = await self._run.stop(caller_name(context), wait=not request.may_queue)
            return reply_to_wire(reply, pb.StopResponse)

    async def Extend(self, request: pb.ExtendRequest, context: ServicerContext) -> pb.ExtendResponse:
        """Train for more rounds."""
        async with rejecting(context):
            reply = await self._run.extend(caller_name(context), request.rounds, wait=not request.may_queue)
            return reply_to_wire(reply, pb.ExtendResponse)

    async def Pause(self, request: pb.PauseRequest, context: ServicerContext) -> pb.PauseResponse:
        """Pause the run."""
        async with rejecting(context):
            return pb.PauseResponse(round=await self._run.pause(caller_name(context)))

    async def Resume(self, request: pb.ResumeRequest, context: ServicerContext) -> pb.ResumeResponse:
        """Resume a paused run."""
        async with rejecting(context):
            return pb.ResumeResponse(round=await self._run.resume(caller_name(context)))

    async def Evict(self, request: pb.EvictRequest, context: ServicerContext) -> pb.EvictResponse:
        """Evict a member."""
        async with rejecting(context):
            reply = await self._run.evict(caller_name(context), request.node, request.force)
            return reply_to_wire(reply, pb.EvictResponse)

    def _status(self) -> pb.ClusterStatus:
        return CLUSTER_STATUS.to_wire(self._run.status())
