"""Node to node: one outgoing stream per out-neighbour, one incoming per in-neighbour. Delivers; never judges.

A push is repeated over as many connections as it takes until its receiver answers it; the receiver tells repeats
apart by (sender, round). So nothing is lost silently and nothing counts twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import NoReturn

import grpc
import grpc.aio
import stamina
import structlog

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message
from edgenode.core.protocol.plan import Plan
from edgenode.errors import ConfigError, DigestMismatch, EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.proto import common_pb2, peer_pb2, peer_pb2_grpc
from edgenode.net.rpc import broken, channel, reject, side_by_side, translated
from edgenode.net.wire import (
    CHUNK_BYTES,
    Assembler,
    Identity,
    ack_from_wire,
    ack_to_wire,
    plan_from_wire,
    push_frames,
    records_to_wire,
)

log = structlog.get_logger()

SERVICE = "edgenode.v1.PeerService"
_REMIND_EVERY_S = 10.0
_GRPC_PREFIX_BYTES = 5


class PeerServer(peer_pb2_grpc.PeerServiceServicer):
    """The receiving end. Streams wait until ``open`` says which run this is.

    Attributes:
        identity: ours; without a plan digest until the run is founded.
    """

    def __init__(self, identity: Identity, saved: tuple[frozenset[int], Plan | None]) -> None:
        self.identity = identity
        self._saved = saved
        self._is_open = asyncio.Event()
        self._deliver: Callable[[Message], None]
        self._max_payload_bytes = 0
        self._answers: dict[str, asyncio.Queue[Ack | None]] = {}
        self._greeters: set[str] = set()
        self._mismatches: asyncio.Queue[EdgenodeError] = asyncio.Queue()
        self._model: Callable[[], Awaitable[bytes]] | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, server)

    def open(self, identity: Identity, deliver: Callable[[Message], None], max_payload_bytes: int) -> None:
        """The run is founded: take pushes from now on."""
        self.identity, self._deliver, self._max_payload_bytes = identity, deliver, max_payload_bytes
        self._is_open.set()

    def sponsor(self, model: Callable[[], Awaitable[bytes]]) -> None:
        """Give the model, as safetensors, to newcomers that ask for it."""
        self._model = model

    def answer(self, sender: str, ack: Ack) -> None:
        """Answer a push. A sender without a stream repeats the push later, and gets the answer then."""
        if sender in self._answers:
            self._answers[sender].put_nowait(ack)

    @property
    def connected(self) -> int:
        """How many in-neighbours have a stream here."""
        return len(self._answers)

    async def Meet(self, request: peer_pb2.MeetRequest, context: grpc.aio.ServicerContext) -> peer_pb2.MeetResponse:
        """Say who we are and what we could resume from; of who asks we learn whether they are of our run."""
        try:
            theirs = self.identity.check(request.identity, context.peer())
            self._greeters.add(theirs.node)
            if theirs.node == self.identity.node and theirs.process != self.identity.process:
                self._mismatches.put_nowait(same_name(theirs.node, context.peer()))
        except DigestMismatch as exc:
            log.warning("met a stranger", reason=str(exc))
            if exc.what != "cluster":
                self._mismatches.put_nowait(exc)
        rounds, plan = self._saved
        saved = common_pb2.Saved(rounds=sorted(rounds), records=records_to_wire(plan.records if plan else ()))
        return peer_pb2.MeetResponse(identity=self.identity.to_wire(), saved=saved)

    async def greeted_by(self, nodes: frozenset[str], timeout_s: float) -> None:
        """Wait until each of these has asked who we are: whoever was slower than the whole run still needs to know."""
        deadline = time.monotonic() + timeout_s
        while not nodes <= self._greeters and time.monotonic() < deadline:  # noqa: ASYNC110 - others set it
            await asyncio.sleep(0.01)

    async def FetchModel(self, request: peer_pb2.FetchModelRequest, context: grpc.aio.ServicerContext) -> None:
        """Stream our model to a newcomer of our run."""
        try:
            replace(self.identity, plan_digest="").check(request.identity, context.peer())
            if self._model is None:
                raise RemoteProtocolError(f"{self.identity.node} has no model yet")
            model = await self._model()
        except EdgenodeError as exc:
            await reject(context, exc)
            return
        for at in range(0, len(model), CHUNK_BYTES):
            await context.write(peer_pb2.FetchModelResponse(chunk=model[at : at + CHUNK_BYTES]))

    async def first_mismatch(self) -> NoReturn:
        """Wait for one of another run, or of our name. It ends at our answer: we could not meet it any more.

        Raises:
            DigestMismatch: one of another run asked who we are.
            ConfigError: one of our name did.
        """
        raise await self._mismatches.get()

    async def Push(self, requests: AsyncIterator[peer_pb2.PushRequest], context: grpc.aio.ServicerContext) -> None:
        """One in-neighbour's stream: pushes in, answers out, in any order; it ends when the sender has enough."""
        await self._is_open.wait()
        answers: asyncio.Queue[Ack | None] = asyncio.Queue()
        sender = ""
        try:
            hello = await anext(aiter(requests), peer_pb2.PushRequest())
            identity = self.identity.check(hello.hello, context.peer())
            sender = identity.node
            self._answers[sender] = answers
            await context.write(peer_pb2.PushResponse(hello=self.identity.to_wire()))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(answers, context), name=f"answers to {sender}")
                await self._read(identity, requests)
                answers.put_nowait(None)
        except (EdgenodeError, ExceptionGroup) as exc:
            await reject(context, first_cause(exc), sender)
        finally:
            if self._answers.get(sender) is answers:
                del self._answers[sender]

    async def _read(self, sender: Identity, requests: AsyncIterator[peer_pb2.PushRequest]) -> None:
        assembler = Assembler(sender, self._max_payload_bytes)
        async for frame in requests:
            if message := assembler.feed(frame):
                self._deliver(message)

    async def _write(self, answers: asyncio.Queue[Ack | None], context: grpc.aio.ServicerContext) -> None:
        while (answer := await answers.get()) is not None:
            await context.write(ack_to_wire(answer))


@dataclass(frozen=True)
class PeerAddresses:
    """Where a peer may be, best guess first, and which of the processes of its name is meant."""

    addresses: tuple[str, ...]
    incarnation: int = 0


class PeerLink:
    """The sending end towards one out-neighbour: dials, says hello, pushes, and repeats until answered.

    Attributes:
        wire_bytes: bytes of all gRPC messages sent, repeats and framing included.
    """

    def __init__(
        self,
        to: str,
        identity: Identity,
        peer_addresses: Callable[[], PeerAddresses],
        post: Callable[[Answered], None],
    ) -> None:
        self.to, self.wire_bytes = to, 0
        self._identity, self._peer_addresses, self._post = identity, peer_addresses, post
        self._unanswered: dict[int, Message] = {}
        self._outbox: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._down_since: float | None = None

    def push(self, message: Message) -> None:
        """Queue a message; it stays here until it is answered."""
        self._unanswered[message.round] = message
        self._outbox.append(message)
        self._wake.set()

    def close(self) -> None:
        """Let ``run`` return once everything is answered."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Keep a stream up until closed.

        Raises:
            RemoteProtocolError: the other side is of another run, or breaks the protocol.
        """
        attempt = count()
        while not (self._closing and not self._unanswered):
            said_at = 0.0
            async for retry in stamina.retry_context(
                on=TransportError, attempts=None, timeout=None, wait_initial=0.05, wait_max=1.0, wait_jitter=0.2
            ):
                with retry:
                    try:
                        await self._session(next(attempt))
                    except TransportError as exc:
                        if self._closing and not self._unanswered:
                            return
                        now = time.monotonic()
                        self._down_since = self._down_since or now
                        if now - max(self._down_since, said_at) >= _REMIND_EVERY_S:
                            said_at, since_s = now, round(now - self._down_since)
                            log.warning("cannot reach a peer", peer=self.to, since_s=since_s, why=str(exc))
                        raise

    async def _session(self, attempt: int) -> None:
        there = self._peer_addresses()
        if not there.addresses:
            raise TransportError(f"no address of {self.to} is known yet")
        target = there.addresses[attempt % len(there.addresses)]
        async with channel(target) as to_peer:
            stream = peer_pb2_grpc.PeerServiceStub(to_peer).Push()
            try:
                await self._greet(stream, target, there.incarnation)
                work = {f"answers of {self.to}": self._read, f"pushes to {self.to}": self._write}
                await side_by_side(work, stream)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
                raise broken(exc, target) from exc

    async def _greet(self, stream: grpc.aio.StreamStreamCall, target: str, incarnation: int) -> None:
        await stream.write(peer_pb2.PushRequest(hello=self._identity.to_wire()))
        first = await stream.read()
        if first is grpc.aio.EOF:
            raise TransportError(f"{target} closed the stream before it said hello")
        theirs = self._identity.check(first.hello, target)
        if theirs.node != self.to:
            raise TransportError(f"{target} is {theirs.node}, not {self.to}")
        if theirs.incarnation != incarnation:
            raise TransportError(f"{self.to} at {target} is incarnation {theirs.incarnation}, not {incarnation}")
        self._down_since = None

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            ack = ack_from_wire(self.to, response.answer)
            self._unanswered.pop(ack.round, None)
            self._wake.set()
            self._post(Answered(self.to, ack))
        if self._unanswered or not self._closing:
            raise TransportError(f"{self.to} closed the stream")

    async def _write(self, stream: grpc.aio.StreamStreamCall) -> None:
        self._outbox = deque(self._unanswered[r] for r in sorted(self._unanswered))
        while True:
            while self._outbox:
                for frame in push_frames(self._outbox.popleft()):
                    self.wire_bytes += frame.ByteSize() + _GRPC_PREFIX_BYTES
                    await stream.write(frame)
            if self._closing and not self._unanswered:
                await stream.done_writing()
                return
            self._wake.clear()
            await self._wake.wait()


class Peers:
    """All outgoing links of a node; each lives in the caller's task group."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        identity: Identity,
        peer_addresses: Callable[[str], PeerAddresses],
        post: Callable[[Answered], None],
    ) -> None:
        self._group, self._identity, self._peer_addresses, self._post = group, identity, peer_addresses, post
        self._links: dict[str, PeerLink] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dropped_bytes = 0

    def push(self, to: str, message: Message) -> None:
        """Deliver a message, dialling the peer if it is the first."""
        if to not in self._links:
            link = PeerLink(to, self._identity, lambda: self._peer_addresses(to), self._post)
            self._links[to] = link
            self._tasks[to] = self._group.create_task(link.run(), name=f"link to {to}")
        self._links[to].push(message)

    @property
    def wire_bytes(self) -> int:
        """Bytes of all gRPC messages sent to peers."""
        return self._dropped_bytes + sum(link.wire_bytes for link in self._links.values())

    def drop(self, peer: str) -> None:
        """A peer is out: what is still to be delivered to it is not to be."""
        if peer in self._links:
            self._dropped_bytes += self._links.pop(peer).wire_bytes
            self._tasks.pop(peer).cancel()

    def retire(self, peer: str) -> None:
        """A peer has left: nothing more goes to it, but what it has not answered yet still does."""
        if peer in self._links:
            link = self._links.pop(peer)
            self._dropped_bytes += link.wire_bytes
            self._tasks.pop(peer)
            link.close()

    async def close(self) -> None:
        """Let every link finish what it has, and wait for it."""
        for link in self._links.values():
            link.close()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    def abandon(self) -> None:
        """Drop every link as it is: the run has failed."""
        for task in self._tasks.values():
            task.cancel()


def same_name(name: str, target: str) -> ConfigError:
    """Another process has our name."""
    return ConfigError(f"the peer at {target} has our own name {name!r}: give one of us another --name")


async def meet(
    target: str, identity: Identity, waiting: Callable[[str, str], None], timeout_s: float
) -> tuple[Identity, frozenset[int], Plan | None]:
    """Ask a fixed peer who it is, until it answers.

    Args:
        waiting: told (target, why) from time to time while it does not.

    Raises:
        DigestMismatch: it is of another run.
        TransportError: it never answered.
    """
    deadline = time.monotonic() + timeout_s
    said_at = time.monotonic() - _REMIND_EVERY_S + 1
    async for retry in stamina.retry_context(
        on=TransportError, attempts=None, timeout=timeout_s, wait_initial=0.05, wait_max=0.5
    ):
        with retry:
            try:
                async with channel(target) as to_peer:
                    request = peer_pb2.MeetRequest(identity=identity.to_wire())
                    reply = await peer_pb2_grpc.PeerServiceStub(to_peer).Meet(request, timeout=5)
            except grpc.aio.AioRpcError as exc:
                if time.monotonic() - said_at >= _REMIND_EVERY_S:
                    said_at = time.monotonic()
                    waiting(target, exc.details() or exc.code().name)
                if time.monotonic() >= deadline:
                    raise TransportError(f"no answer from peer {target} within {timeout_s:g} s") from exc
                raise translated(exc, target) from exc
            theirs = identity.check(reply.identity, target)
            return theirs, frozenset(reply.saved.rounds), plan_from_wire(reply.saved.records)
    raise TransportError(f"no answer from peer {target}")


async def fetch_model(target: str, identity: Identity, max_bytes: int, timeout_s: float) -> bytes:
    """A member's model, as safetensors.

    Raises:
        TransportError: it cannot be reached, or has no model to give.
        RemoteProtocolError: what it sends is larger than a model of this run.
    """
    model = bytearray()
    try:
        async with channel(target) as to_peer:
            request = peer_pb2.FetchModelRequest(identity=identity.to_wire())
            async for part in peer_pb2_grpc.PeerServiceStub(to_peer).FetchModel(request, timeout=timeout_s):
                model += part.chunk
                if len(model) > max_bytes:
                    raise RemoteProtocolError(f"{target} sends a model of more than {max_bytes} bytes")
    except grpc.aio.AioRpcError as exc:
        raise translated(exc, target) from exc
    return bytes(model)


async def probe(target: str, identity: Identity, timeout_s: float) -> Identity | None:
    """Who answers at an address: it is not only a socket that is open. None if nobody does."""
    try:
        async with channel(target) as to_peer:
            request = peer_pb2.MeetRequest(identity=identity.to_wire())
            reply = await peer_pb2_grpc.PeerServiceStub(to_peer).Meet(request, timeout=timeout_s)
    except grpc.aio.AioRpcError:
        return None
    return Identity.from_wire(reply.identity)
