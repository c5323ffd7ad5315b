"""A relay's end of its link to the controller: it reports what it carries, and learns which nodes may use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio

from edgenode.core.protocol.plan.record import MAX_MEMBERS
from edgenode.core.protocol.status import Relayed
from edgenode.errors import NotAdmitted, TransportError
from edgenode.net.proto import relay_pb2, relay_pb2_grpc
from edgenode.net.rpc import broken, channel, denied, side_by_side
from edgenode.net.text_wire import key_id_from_wire, name_from_wire
from edgenode.net.wire import Identity
from edgenode.security.subject import CONTROLLER

_REPORT_EVERY_S = 2.0
_MOST_NODES = 4 * MAX_MEMBERS  # members, and nodes that would be some


async def register(
    target: str,
    identity: Identity,
    address: str,
    traffic: Callable[[], tuple[Relayed, ...]],
    take: Callable[[frozenset[str], frozenset[str]], None],
) -> None:
    """Be a relay of the controller at host:port, until the link to it breaks.

    Args:
        address: host:port where members dial this process.
        traffic: returns what it has relayed.
        take: takes the names of the nodes that may use it, and the ids of the revoked keys.

    Raises:
        TransportError: the link is broken. A new one can succeed.
        RemoteProtocolError: the controller refuses this relay.
        NotAdmitted: the key of this process is not valid any more.
    """

    async def read(stream: grpc.aio.StreamStreamCall) -> None:
        while (access := await stream.read()) is not grpc.aio.EOF:
            nodes = frozenset(map(name_from_wire, access.nodes[:_MOST_NODES]))
            take(nodes, frozenset(map(key_id_from_wire, access.revoked)))
        raise TransportError(f"the controller at {target} closed the stream")

    async def write(stream: grpc.aio.StreamStreamCall) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            await stream.write(report())

    def report() -> relay_pb2.RelayReport:
        counted = [
            relay_pb2.RelayedTraffic(node=one.node, connections=one.connections, bytes=one.bytes) for one in traffic()
        ]
        return relay_pb2.RelayReport(name=identity.node, address=address, traffic=counted)

    async with channel(target, identity.security, CONTROLLER.dns_name) as to_controller:
        stream = relay_pb2_grpc.RelayRegistryServiceStub(to_controller).Register()
        try:
            await stream.write(report())
            await side_by_side({"access": read, "reports": write}, stream)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
            if reason := denied(exc):
                raise NotAdmitted(
                    f"the controller at {target} does not admit this relay: {reason}; to let it in again, run "
                    f"edgenode invite {identity.node} --role relay there, and start it with the invite (--join)"
                ) from exc
            raise broken(exc, target) from exc
