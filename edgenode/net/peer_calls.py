"""Calls to a single peer: who is there, what it brings, that training diverged, and its model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import grpc
import grpc.aio

from edgenode.addresses import split_address
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.topology.period import DataSize
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.reasons import failure
from edgenode.net.retry import CONNECT_S, PATIENT_CONNECT_S, Backoff, Outage, retry
from edgenode.net.rpc import channel, parsed
from edgenode.net.text_wire import line_from_wire
from edgenode.net.wire import DATA_SIZE, SAVED, Identity, name_conflict
from edgenode.security.subject import Subject, role_dns_name

Probe = Callable[[str, str, float], Awaitable[Identity | None]]
"""Takes (host:port, node, seconds). Returns the identity of the process that answers for a node, or None."""

_MEET_BACKOFF = Backoff(initial_s=0.05, max_s=0.5, jitter_s=1.0)
_MEET_S = 5.0
_BUSY_S = 10.0
_FIRST_LOG_S = 1.0


@dataclass(frozen=True)
class Met:
    """The answer of a fixed peer: its process, its checkpoints, and the size of its data.

    Attributes:
        company: the digest of all processes that it has met (`node/fixed_peers`), or "".
    """

    identity: Identity
    saved: frozenset[int]
    plan: Plan | None
    data: DataSize
    company: str = ""


async def meet(target: str, identity: Identity, waiting: Callable[[str, str], None], timeout_s: float) -> Met:
    """Ask a fixed peer what it brings to the run, until it answers and its data is loaded.

    Args:
        waiting: takes (target, reason), after one second without an answer and then every ten.

    Raises:
        DigestMismatch: the peer is of another run.
        ConfigError: it has this node's name.
        TransportError: it did not answer in time.
    """

    async def attempt() -> Met:
        try:
            reply = await _met(target, identity, _MEET_S, connect_s=outage.connect_s)
        except grpc.aio.AioRpcError as exc:
            raise failure("", exc) from exc
        theirs = identity.check(reply.identity, target)
        if theirs.node == identity.node and theirs.process != identity.process:
            raise name_conflict(identity.node, target)  # at once: the other one ends as soon as it knows
        if not reply.HasField("data"):
            raise TransportError("it is loading its data")
        saved = await parsed(SAVED.from_wire, reply.saved, bool(reply.saved.records))
        return Met(theirs, *saved, DATA_SIZE.from_wire(reply.data), line_from_wire(reply.company))

    outage = Outage(lambda since_s, why: waiting(target, why), _FIRST_LOG_S)
    try:
        return await retry(attempt, outage, _MEET_BACKOFF, timeout_s)
    except TransportError as exc:
        raise TransportError(f"no answer from peer {target} within {timeout_s:g} s: {exc}") from exc


async def probe(target: str, identity: Identity, timeout_s: float, node: str = "") -> Identity | None:
    """The identity of the process at an address: an open socket is not enough. None if there is no answer.

    Args:
        node: only this node counts. Two networks can have the same address.
    """
    try:
        reply = await _met(target, identity, timeout_s, node=node)
        return Identity.from_wire(reply.identity)
    except (grpc.aio.AioRpcError, RemoteProtocolError):
        return None


def direct_probe(identity: Identity) -> Probe:
    """A probe of what is at an address."""
    return lambda address, node, timeout_s: probe(address, identity, timeout_s)


async def reach(target: str, to: str, identity: Identity, timeout_s: float) -> None:
    """Make sure that a new connection to a node can be opened in time. A busy node may answer later.

    Raises:
        TransportError: it cannot be opened. The text gives the reason.
        RemoteProtocolError: another process is there.
    """
    try:
        async with asyncio.timeout(timeout_s):  # gRPC does not say why it cannot connect
            _, writer = await asyncio.open_connection(*split_address(target))
        writer.transport.abort()
        server = Subject("node", to).dns_name
        async with channel(target, identity.security, server, PATIENT_CONNECT_S) as to_peer:
            request = peer_pb2.MeetRequest(identity=identity.to_wire())
            reply = await peer_pb2_grpc.PeerServiceStub(to_peer).Meet(request, timeout=_BUSY_S)
    except (OSError, grpc.aio.AioRpcError) as exc:  # a TimeoutError is an OSError
        raise failure("", exc) from exc
    if reply.identity.node != to:
        raise RemoteProtocolError(f"{target} is another node")


async def reach_any(addresses: Sequence[str], to: str, identity: Identity, timeout_s: float) -> str:
    """The first of the addresses of a node at which `reach` succeeds. All are tried at once.

    Raises:
        EdgenodeError: it succeeds at none. The text gives the reason for each, the first without its address.
    """
    tried = (reach(address, to, identity, timeout_s) for address in addresses)
    errors = await asyncio.gather(*tried, return_exceptions=True)
    for address, error in zip(addresses, errors, strict=True):
        if error is None:
            return address
        if len(errors) == 1 or not isinstance(error, EdgenodeError):
            raise error
    further = (f"at {address}: {error}" for address, error in zip(addresses[1:], errors[1:], strict=True))
    raise TransportError("; ".join([str(errors[0]), *further]))


def _to_node(target: str, identity: Identity, node: str, connect_s: float) -> grpc.aio.Channel:
    """A channel to a node. If only its address is known, some node of the cluster must be there."""
    server = Subject("node", node).dns_name if node else role_dns_name("node")
    return channel(target, identity.security, server, connect_s)


async def abort(target: str, identity: Identity, reason: str, timeout_s: float) -> None:
    """Report to a peer that training diverged. A peer that cannot be reached has ended, or will time out."""
    with suppress(grpc.aio.AioRpcError):
        await _met(target, identity, timeout_s, reason)


async def _met(
    target: str, identity: Identity, timeout_s: float, reason: str = "", node: str = "", connect_s: float = CONNECT_S
) -> peer_pb2.MeetResponse:
    async with _to_node(target, identity, node, connect_s) as to_peer:
        request = peer_pb2.MeetRequest(identity=identity.to_wire(), abort=reason)
        reply: peer_pb2.MeetResponse = await peer_pb2_grpc.PeerServiceStub(to_peer).Meet(request, timeout=timeout_s)
        return reply


async def fetch_model(
    target: str, identity: Identity, max_bytes: int, timeout_s: float, own: str = "", node: str = ""
) -> bytes:
    """A member's model, as safetensors.

    Args:
        node: the member's name. Any one may answer if it is empty.
        own: the digest of a model. If the member's is equal, the answer is empty.

    Raises:
        TransportError: the member does not answer, or has no model yet.
        RemoteProtocolError: it sends more than a model of this run.
    """
    model = bytearray()
    try:
        async with _to_node(target, identity, node, PATIENT_CONNECT_S) as to_peer:
            request = peer_pb2.FetchModelRequest(identity=identity.to_wire(), own=own)
            async for part in peer_pb2_grpc.PeerServiceStub(to_peer).FetchModel(request, timeout=timeout_s):
                model += part.chunk
                if len(model) > max_bytes:
                    raise RemoteProtocolError(f"{target} sends a model of more than {max_bytes} bytes")
    except grpc.aio.AioRpcError as exc:
        raise failure(target, exc) from exc
    return bytes(model)


async def has_model(target: str, identity: Identity, own: str, timeout_s: float, node: str) -> bool:
    """Return whether a member's model has this digest. If it has another one, that is not read.

    Raises:
        TransportError: the member does not answer, or has no model yet.
    """
    try:
        return not await fetch_model(target, identity, 0, timeout_s, own, node)
    except RemoteProtocolError:  # it sends its own
        return False
