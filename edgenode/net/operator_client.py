"""The operator's end of the operator service: what the command line calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar

import grpc
import grpc.aio

from edgenode.core.protocol.events import Reply
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.net.operator_wire import GRAPH, reply_from_wire
from edgenode.net.proto import operator_pb2 as pb
from edgenode.net.proto import operator_pb2_grpc
from edgenode.net.reasons import unreachable
from edgenode.net.retry import PATIENT_CONNECT_S
from edgenode.net.rpc import channel, refused
from edgenode.net.status_wire import CLUSTER_STATUS
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.security.access import may_call
from edgenode.security.subject import CONTROLLER

R = TypeVar("R")
_OPEN_PAGE = "/edgenode.v1.OperatorService/OpenPage"


class OperatorClient:
    """Calls one controller.

    Every call raises ConfigError with the controller's reason if the controller rejects it, and TransportError if the
    controller does not answer.
    """

    def __init__(self, stub: operator_pb2_grpc.OperatorServiceStub, target: str, security: Security) -> None:
        self._stub, self._target, self._security = stub, target, security

    async def status(self) -> ClusterStatus:
        """The current status."""
        return self._status((await self._called(self._stub.Status(pb.StatusRequest(), timeout=10))).status)

    async def watch(self) -> AsyncIterator[ClusterStatus]:
        """The status, a few times a second, until the run is over."""
        try:
            async for response in self._stub.Watch(pb.WatchRequest()):
                yield self._status(response.status)
        except grpc.aio.AioRpcError as exc:
            raise refused(exc, self._target) from exc

    @property
    def may_open_page(self) -> bool:
        """Return whether the caller's role may sign in to the page. The controller logs a call that it refuses."""
        own = self._security
        return not isinstance(own, MutualTls) or may_call(own.credentials.subject.role, _OPEN_PAGE)

    async def open_page(self) -> str:
        """A link that signs the caller in to the page, once."""
        return str((await self._called(self._stub.OpenPage(pb.OpenPageRequest(), timeout=10))).link)

    async def rotate(self, graphs: Sequence[GraphSpec], period: Period, wait: bool = False) -> Reply:
        """Change the graphs. The reply names the round at which every node switches, or what the change waits for.

        Args:
            wait: return only when the round is known.
        """
        specs, epochs = map(GRAPH.to_wire, graphs), period.unit == "epochs"
        request = pb.RotateRequest(graphs=specs, every=period.count, epochs=epochs, may_queue=not wait)
        return reply_from_wire(await self._called(self._stub.Rotate(request)))

    async def stop(self) -> Reply:
        """Stop the run. The reply names the round before which every node stops, or what the stop waits for."""
        return reply_from_wire(await self._called(self._stub.Stop(pb.StopRequest(may_queue=True))))

    async def extend(self, rounds: int) -> Reply:
        """Train for so many rounds. The reply names the round from which every node does, or what that waits for."""
        request = pb.ExtendRequest(rounds=rounds, may_queue=True)
        return reply_from_wire(await self._called(self._stub.Extend(request)))

    async def pause(self) -> int:
        """Pause the run. Returns the newest round that a node is known to be in."""
        return int((await self._called(self._stub.Pause(pb.PauseRequest()))).round)

    async def resume(self) -> int:
        """Resume the run. Returns the newest round that a node is known to be in."""
        return int((await self._called(self._stub.Resume(pb.ResumeRequest()))).round)

    async def evict(self, node: str, force: bool) -> Reply:
        """Evict a member. The reply names the first round without it."""
        request = pb.EvictRequest(node=node, force=force)
        return reply_from_wire(await self._called(self._stub.Evict(request)))

    def _status(self, wire: pb.ClusterStatus) -> ClusterStatus:
        """A status with the address that was dialled, which is known to be reachable from here."""
        status = CLUSTER_STATUS.from_wire(wire)
        return replace(status, leadership=replace(status.leadership, address=self._target))

    async def _called(self, call: Awaitable[R]) -> R:
        try:
            return await call
        except grpc.aio.AioRpcError as exc:
            raise refused(exc, self._target) from exc


@asynccontextmanager
async def operator_client(
    target: str, timeout_s: float | None = 10.0, security: Security = INSECURE
) -> AsyncIterator[OperatorClient]:
    """A client of the controller at host:port.

    Raises:
        TransportError: no controller answers there in time. None is no limit.
    """
    async with channel(target, security, CONTROLLER.dns_name, PATIENT_CONNECT_S) as to_controller:
        try:
            async with asyncio.timeout(timeout_s):
                await to_controller.channel_ready()
        except TimeoutError as exc:
            what = f"no controller answers at {target} (waited {timeout_s:g} s)"
            raise await unreachable(what, target, CONTROLLER.dns_name, security.credentials) from exc
        yield OperatorClient(operator_pb2_grpc.OperatorServiceStub(to_controller), target, security)
