"""The sending end of the peer service: one stream for each out-neighbour, and calls to a single peer.

A push is never lost silently. Its link repeats it, over as many connections as it takes, until the receiver answers it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import grpc
import grpc.aio
import structlog

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.plan import Plan
from edgenode.core.topology.period import DataSize
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError
from edgenode.net.faults import Faults
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.push_wire import PushWriter
from edgenode.net.reasons import failure
from edgenode.net.retry import Backoff, Outage, retry, stay_connected
from edgenode.net.rpc import broken, channel, parsed, side_by_side, translated
from edgenode.net.text_wire import line_from_wire
from edgenode.net.wire import (
    MOST_ANSWERS,
    Identity,
    ack_from_wire,
    data_size_from_wire,
    name_conflict,
    saved_from_wire,
)
from edgenode.security.subject import Subject, role_dns_name

log = structlog.get_logger()

PUSH = "/edgenode.v1.PeerService/Push"
_LINK_BACKOFF = Backoff(initial_s=0.05, max_s=1.0, jitter_s=0.2)
_MEET_BACKOFF = Backoff(initial_s=0.05, max_s=0.5, jitter_s=1.0)
_MEET_S = 5.0
_HELLO_S = 10.0
_FIRST_LOG_S = 1.0
_GRPC_PREFIX_BYTES = 5


@dataclass(frozen=True)
class PeerAddresses:
    """Where a peer can be, the most likely address first, and which process of it is meant.

    Attributes:
        keys: the ids of the keys that it may show. Empty if any will do, as the plan has none.
    """

    addresses: tuple[str, ...]
    incarnation: int = 0
    keys: frozenset[str] = frozenset()


class PeerLink:
    """Pushes to one out-neighbour, and repeats every push until it is answered.

    Args:
        peer_addresses: returns the peer's addresses, asked before every attempt.
        post: takes the answers. A refused push is repeated over another connection, after a wait.
        faults: takes what the peer does against the protocol. It does not end the link.

    Attributes:
        wire_bytes: bytes of all gRPC messages sent, repeats and framing included.
    """

    def __init__(
        self,
        to: str,
        identity: Identity,
        peer_addresses: Callable[[], PeerAddresses],
        post: Callable[[Answered], None],
        faults: Faults | None = None,
    ) -> None:
        self.to, self.wire_bytes = to, 0
        self._identity, self._peer_addresses, self._post = identity, peer_addresses, post
        self._faults = faults or Faults()
        self._unanswered: dict[int, Message] = {}
        self._outbox: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._attempts = count()
        self._outage = Outage(
            lambda since_s, why: log.warning("cannot reach a peer", peer=to, since_s=since_s, why=why)
        )

    def push(self, message: Message) -> None:
        """Queue a message. It stays here until it is answered."""
        self._unanswered[message.round] = message
        self._outbox.append(message)
        self._wake.set()

    def close(self) -> None:
        """Let ``run`` return once everything is answered."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Stay connected until closed, whatever the peer answers."""
        await stay_connected(self._connect, self._is_done, self._outage, _LINK_BACKOFF)

    def _is_done(self) -> bool:
        return self._closing and not self._unanswered

    async def _connect(self) -> None:
        try:
            await self._connect_once()
        except TransportError:
            raise
        except EdgenodeError as exc:
            self._faults.note(self.to, "answer", exc)
            raise TransportError(str(exc)) from exc

    async def _connect_once(self) -> None:
        peer = self._peer_addresses()
        attempt = next(self._attempts)
        if not peer.addresses:
            raise TransportError(f"no address of {self.to} is known yet")
        target = peer.addresses[attempt % len(peer.addresses)]
        server, security = Subject("node", self.to).dns_name, self._identity.security
        if peer.keys:
            security = await security.knowing(target, server, peer.keys)
        async with channel(target, security, server) as to_peer:
            stream = to_peer.stream_stream(PUSH, None, peer_pb2.PushResponse.FromString)()
            try:
                async with asyncio.timeout(_HELLO_S):
                    await self._handshake(stream, target, peer.incarnation)
                work = {f"answers of {self.to}": self._read, f"pushes to {self.to}": self._write}
                await side_by_side(work, stream)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
                raise broken(exc, target) from exc
            except TimeoutError as exc:  # another address may be the right one
                raise TransportError(f"{target} did not answer the greeting in {_HELLO_S:g} s") from exc

    async def _handshake(self, stream: grpc.aio.StreamStreamCall, target: str, incarnation: int) -> None:
        await stream.write(peer_pb2.PushRequest(hello=self._identity.to_wire()).SerializeToString())
        first = await stream.read()
        if first is grpc.aio.EOF:
            raise TransportError(f"{target} closed the stream before the handshake")
        theirs = self._identity.check(first.hello, target)
        if theirs.node != self.to:
            raise TransportError(f"{target} is {theirs.node}, not {self.to}")
        if theirs.incarnation != incarnation:
            raise TransportError(f"{self.to} at {target} is incarnation {theirs.incarnation}, not {incarnation}")
        self._outage.end()

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            if len(response.answers) > MOST_ANSWERS:
                raise RemoteProtocolError(f"{self.to} sent {len(response.answers)} answers in one frame")
            for answer in response.answers:
                self._answered(await parsed(partial(ack_from_wire, self.to), answer, bool(answer.records)))
            if self._is_done():
                self._wake.set()
        if not self._is_done():
            raise TransportError(f"{self.to} closed the stream")

    def _answered(self, ack: Ack) -> None:
        if ack.round not in self._unanswered:
            return  # answered before
        self._post(Answered(self.to, ack))
        if ack.verdict not in (Verdict.OK, Verdict.SEEN):
            raise TransportError(f"{self.to} refused round {ack.round}: {ack.detail}")
        del self._unanswered[ack.round]

    async def _write(self, stream: grpc.aio.StreamStreamCall) -> None:
        self._outbox = deque(self._unanswered[t] for t in sorted(self._unanswered))
        writer = PushWriter()
        while True:
            while self._outbox:
                for frame in writer.frames(self._outbox.popleft()):
                    self.wire_bytes += len(frame) + _GRPC_PREFIX_BYTES
                    await stream.write(frame)
            if self._is_done():
                await stream.done_writing()
                return
            self._wake.clear()
            await self._wake.wait()


class Peers:
    """All links of a node to its out-neighbours. Each lives in the caller's task group."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        identity: Identity,
        peer_addresses: Callable[[str], PeerAddresses],
        post: Callable[[Answered], None],
        faults: Faults | None = None,
    ) -> None:
        self._group, self._identity, self._peer_addresses = group, identity, peer_addresses
        self._post, self._faults = post, faults or Faults()
        self._links: dict[str, PeerLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending = set[PeerLink]()  # dropped or retired, and not yet over
        self._ended_links_bytes = 0

    @property
    def wire_bytes(self) -> int:
        """Bytes of all gRPC messages sent to peers."""
        return self._ended_links_bytes + sum(link.wire_bytes for link in {*self._links.values(), *self._ending})

    def push(self, to: str, message: Message) -> None:
        """Deliver a message. The first one to a peer opens the link."""
        if to not in self._links:
            link = PeerLink(to, self._identity, lambda: self._peer_addresses(to), self._post, self._faults)
            self._links[to] = link
            self._tasks[to] = self._group.create_task(link.run(), name=f"link to {to}")
        self._links[to].push(message)

    def drop(self, peer: str) -> None:
        """End the link to an evicted peer. Messages still in the queue are lost."""
        if peer in self._links:
            self._let_end(peer)[1].cancel()

    def retire(self, peer: str) -> None:
        """End the link to a peer that left, once the peer has answered everything."""
        if peer in self._links:
            self._let_end(peer)[0].close()

    def _let_end(self, peer: str) -> tuple[PeerLink, asyncio.Task[None]]:
        """Take the link to a peer from the list. What it still sends counts, too."""
        link, task = self._links.pop(peer), self._tasks.pop(peer)
        self._ending.add(link)
        task.add_done_callback(lambda _: self._note_end(link))
        return link, task

    def _note_end(self, link: PeerLink) -> None:
        self._ending.discard(link)
        self._ended_links_bytes += link.wire_bytes

    async def close(self) -> None:
        """End every link once its peer has answered everything, and wait for that."""
        for link in self._links.values():
            link.close()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def abandon(self) -> None:
        """End every link at once: the run has failed."""
        for task in self._tasks.values():
            task.cancel()


@dataclass(frozen=True)
class Met:
    """What a fixed peer answers: which process it is, what it can resume from, and how much data it has.

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
            reply = await _met(target, identity, _MEET_S)
        except grpc.aio.AioRpcError as exc:
            raise failure("", exc) from exc
        theirs = identity.check(reply.identity, target)
        if theirs.node == identity.node and theirs.process != identity.process:
            raise name_conflict(identity.node, target)  # at once: the other one ends as soon as it knows
        if not reply.HasField("data"):
            raise TransportError("it is loading its data")
        saved = await parsed(saved_from_wire, reply.saved, bool(reply.saved.records))
        return Met(theirs, *saved, data_size_from_wire(reply.data), line_from_wire(reply.company))

    outage = Outage(lambda since_s, why: waiting(target, why), _FIRST_LOG_S)
    try:
        return await retry(attempt, outage, _MEET_BACKOFF, timeout_s)
    except TransportError as exc:
        raise TransportError(f"no answer from peer {target} within {timeout_s:g} s: {exc}") from exc


async def probe(target: str, identity: Identity, timeout_s: float) -> Identity | None:
    """The identity of the process at an address: an open socket is not enough. None if there is no answer."""
    try:
        reply = await _met(target, identity, timeout_s)
        return Identity.from_wire(reply.identity)
    except (grpc.aio.AioRpcError, RemoteProtocolError):
        return None


def _to_unknown_node(target: str, identity: Identity) -> grpc.aio.Channel:
    """A channel to a node of which only the address is known. Some node of the cluster must be there."""
    return channel(target, identity.security, role_dns_name("node"))


async def abort(target: str, identity: Identity, reason: str, timeout_s: float) -> None:
    """Tell a peer that training diverged. One that cannot be reached has ended, or waits in vain and then ends."""
    with suppress(grpc.aio.AioRpcError):
        await _met(target, identity, timeout_s, reason)


async def _met(target: str, identity: Identity, timeout_s: float, reason: str = "") -> peer_pb2.MeetResponse:
    async with _to_unknown_node(target, identity) as to_peer:
        request = peer_pb2.MeetRequest(identity=identity.to_wire(), abort=reason)
        reply: peer_pb2.MeetResponse = await peer_pb2_grpc.PeerServiceStub(to_peer).Meet(request, timeout=timeout_s)
        return reply


async def fetch_model(target: str, identity: Identity, max_bytes: int, timeout_s: float, own: str = "") -> bytes:
    """A member's model, as safetensors.

    Args:
        own: the digest of a model. If the member's is equal, the answer is empty.

    Raises:
        TransportError: the member does not answer, or has no model yet.
        RemoteProtocolError: it sends more than a model of this run.
    """
    model = bytearray()
    try:
        async with _to_unknown_node(target, identity) as to_peer:
            request = peer_pb2.FetchModelRequest(identity=identity.to_wire(), own=own)
            async for part in peer_pb2_grpc.PeerServiceStub(to_peer).FetchModel(request, timeout=timeout_s):
                model += part.chunk
                if len(model) > max_bytes:
                    raise RemoteProtocolError(f"{target} sends a model of more than {max_bytes} bytes")
    except grpc.aio.AioRpcError as exc:
        raise translated(exc, target) from exc
    return bytes(model)
