"""The receiving end of the peer service: takes pushes from in-neighbours, answers them, and identifies this node.

It delivers pushes and never judges them. A sender repeats a push until it is answered, so a push can arrive more than
once. ``Node`` recognises repeats by (sender, round).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import Abort
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.topology.period import DataSize
from edgenode.errors import DigestMismatch, EdgenodeError, NotYet, RemoteProtocolError, TransportError, first_cause
from edgenode.net.faults import Faults
from edgenode.net.front import peer_of
from edgenode.net.limited_log import address_of, limited
from edgenode.net.model_sender import Model, ModelSender
from edgenode.net.proto import common_pb2, peer_pb2, peer_pb2_grpc
from edgenode.net.push_wire import DONE, PushReader, may_have_records
from edgenode.net.rpc import parsed, refuse, reject
from edgenode.net.text_wire import reason_from_wire
from edgenode.net.tls import key_of_caller, node_of_caller, require_name
from edgenode.net.wire import (
    DATA_SIZE,
    MOST_ANSWERS,
    SAVED,
    Identity,
    ack_to_wire,
    name_conflict,
)

log = structlog.get_logger()

SERVICE = "edgenode.v1.PeerService"
MOST_RECEIVED = 1 << 20  # bytes of one message: a chunk of a payload, or some records
_MAX_ABORTS = 16  # more say nothing new
_MAX_STRANGERS = 16
_MAX_KNOWN = 1024  # names, of which anyone has any number without TLS
_MOST_WAITING = 4096  # answers of one stream that nobody reads: there are at most two windows
_HOLD_S = 0.02
_HOLD_BELOW = 1 << 18  # bytes of a push. A sender keeps larger ones no longer than it must
_HELLO_S = 10.0


class Answers:
    """The answers to one sender. Those to small pushes travel together, because a frame costs more than an answer.

    An answer that a push was mixed waits for others: for ``_HOLD_S`` at most, and until there are half a window of
    them. A sender may have a window of pushes unanswered, so it does not wait for them.

    Attributes:
        hold: such answers wait.
    """

    def __init__(self, window: int) -> None:
        self.hold = False
        self._enough = min(window // 2, MOST_ANSWERS)
        self._waiting: deque[Ack] = deque()
        self._due, self._ended = asyncio.Event(), False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ack: Ack) -> None:
        """Queue an answer. Without room it is dropped: a sender that reads no answer has to repeat its pushes."""
        if len(self._waiting) >= _MOST_WAITING:
            return
        self._waiting.append(ack)
        if not self.hold or ack.verdict is not Verdict.OK or len(self._waiting) >= self._enough:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_HOLD_S, self._due.set)

    def end(self) -> None:
        """Let ``take`` return the rest, and then nothing."""
        self._ended = True
        self._due.set()

    async def take(self) -> list[Ack]:
        """Wait until some are due. Return those of one frame: at most 64, or one that has records."""
        await self._due.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        count = 1 if any(ack.records for ack in self._waiting) else min(len(self._waiting), MOST_ANSWERS)
        taken = [self._waiting.popleft() for _ in range(count)]
        if not self._waiting and not self._ended:
            self._due.clear()
        return taken


@dataclass(frozen=True)
class _Stream:
    """The pushes of one sender.

    Attributes:
        dialled_from: host:port of the other end of the connection.
        slots: the slots for pushes that wait.
        replaced: set when the sender connects again.
    """

    dialled_from: str
    slots: asyncio.Semaphore
    answers: Answers
    replaced: asyncio.Event = field(default_factory=asyncio.Event)


class PeerServer(peer_pb2_grpc.PeerServiceServicer):
    """Serves the peers of one node. Push streams wait until ``open`` names the run.

    Args:
        saved: the rounds of this node's checkpoints, and the plan of the newest.

    Attributes:
        identity: this node's identity. It has no plan digest until the plan is known.
        data: the size of this node's data. Fixed peers ask again until it is known.
        company: the digest of all processes that this node has met, if it has met all. Fixed peers compare it.
        faults: the protocol violations of peers.
    """

    def __init__(self, identity: Identity, saved: tuple[frozenset[int], Plan | None]) -> None:
        self.identity = identity
        self.data: DataSize | None = None
        self.company = ""
        self.faults = Faults()
        self._saved = saved
        self._is_open = asyncio.Event()
        self._deliver: Callable[[Message, Callable[[], None]], None]
        self._max_payload_bytes, self._window = 0, 1
        self._streams: dict[str, _Stream] = {}
        self._unfinished: set[str] = set()
        self._known_to: dict[str, str] = {}  # with the company that the node got as an answer
        self._met = asyncio.Event()
        self._mismatches: asyncio.Queue[EdgenodeError] = asyncio.Queue(1)  # the first one decides
        self._processes: Mapping[str, str] = {}
        self._strangers: asyncio.Queue[Identity] = asyncio.Queue(_MAX_STRANGERS)
        self._aborts: asyncio.Queue[tuple[Identity, Abort]] = asyncio.Queue(_MAX_ABORTS)
        self._model: ModelSender | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server. The frames of pushes stay bytes, which the generated handler would decode."""
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, server)
        push = grpc.stream_stream_rpc_method_handler(self.Push, None, peer_pb2.PushResponse.SerializeToString)
        server.add_registered_method_handlers(SERVICE, {"Push": push})

    def open(
        self,
        identity: Identity,
        deliver: Callable[[Message, Callable[[], None]], None],
        max_payload_bytes: int,
        window: int = 8,
    ) -> None:
        """Take pushes from now on.

        Args:
            identity: this node's identity, with the plan digest.
            deliver: takes (push, taken). ``taken`` is to be called when the push does not wait any more.
            window: the number of pushes of one stream that may wait. The server then stops to read the stream.
        """
        self.identity, self._deliver = identity, deliver
        self._max_payload_bytes, self._window = max_payload_bytes, window
        self._is_open.set()

    def sponsor(self, model: Callable[[str], Awaitable[Model]]) -> None:
        """Give the model to nodes that ask for it. ``model`` takes the name of the node."""
        self._model = ModelSender(model)

    def answer(self, sender: str, ack: Ack) -> None:
        """Answer a push. A sender without a stream repeats the push later, and gets the answer then."""
        if ack.verdict is not Verdict.ERROR:
            self._unfinished.add(sender)
        if (stream := self._streams.get(sender)) is not None:
            stream.answers.put(ack)

    @property
    def unfinished(self) -> int:
        """The number of in-neighbours that may still repeat a push: they have not said that they have all answers."""
        return len(self._unfinished)

    def gone(self, sender: str) -> None:
        """An in-neighbour is no member any more, or has ended. It needs no answers."""
        self._unfinished.discard(sender)

    def senders(self) -> dict[str, str]:
        """The in-neighbours with a stream, and host:port of the other end of its connection."""
        return {sender: stream.dialled_from for sender, stream in self._streams.items()}

    async def wait_until_known_to(self, nodes: frozenset[str], timeout_s: float) -> None:
        """Wait until each of these nodes has met this one and got its company, or until the time is up.

        A node that ends at once after a short run would leave slower peers without an answer. An answer with an older
        company does not help them: they ask again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(self._known_to.get(node) != self.company for node in nodes):
                    self._met.clear()
                    await self._met.wait()

    async def first_mismatch(self) -> NoReturn:
        """Wait for a peer of another run, or for another process of this name. The peer gets its answer first.

        Raises:
            DigestMismatch: a peer is of another run.
            ConfigError: a peer has this node's name.
        """
        raise await self._mismatches.get()

    async def next_abort(self) -> tuple[Identity, Abort]:
        """Wait until a peer with the same configuration reports that training diverged."""
        return await self._aborts.get()

    def take_part_with(self, processes: Mapping[str, str]) -> None:
        """Note the processes of the other nodes of the run, by name. Calls of others in their names are noted."""
        self._processes = processes

    async def next_stranger(self) -> Identity:
        """Wait until a process calls in the name of another node of the run, and is not the one that takes part."""
        return await self._strangers.get()

    async def Meet(self, request: peer_pb2.MeetRequest, context: grpc.aio.ServicerContext) -> peer_pb2.MeetResponse:
        """Answer with this node's identity, checkpoints and data size, and check the peer's identity."""
        try:
            theirs = self.identity.check(request.identity, peer_of(context))
            require_name(context, theirs.node)
            if self.data is not None and (theirs.node in self._known_to or len(self._known_to) < _MAX_KNOWN):
                self._known_to[theirs.node] = self.company
                self._met.set()
            if theirs.node == self.identity.node and theirs.process != self.identity.process:
                self._mismatch(name_conflict(theirs.node, peer_of(context)))
            elif self._processes.get(theirs.node, theirs.process) != theirs.process and not self._strangers.full():
                self._strangers.put_nowait(theirs)
            if request.abort and not self._aborts.full():
                self._aborts.put_nowait((theirs, Abort(reason_from_wire(request.abort))))
        except DigestMismatch as exc:
            who = node_of_caller(context) or address_of(peer_of(context))
            limited(log.warning, "met a process of another run", who, exc.what, reason=str(exc))
            if exc.what != "cluster":
                self._mismatch(exc)
        except RemoteProtocolError as exc:
            await reject(context, exc)
        data = None if self.data is None else DATA_SIZE.to_wire(self.data)
        saved = SAVED.to_wire(self._saved)
        return peer_pb2.MeetResponse(identity=self.identity.to_wire(), saved=saved, data=data, company=self.company)

    def _mismatch(self, error: EdgenodeError) -> None:
        """Keep the first mismatch, without its traceback: that would keep the request, which may have a mebibyte."""
        if not self._mismatches.full():
            self._mismatches.put_nowait(error.with_traceback(None))

    async def FetchModel(self, request: peer_pb2.FetchModelRequest, context: grpc.aio.ServicerContext) -> None:
        """Stream the model to a newcomer of this run."""
        try:
            theirs = replace(self.identity, plan_digest="").check(request.identity, peer_of(context))
            require_name(context, theirs.node)
            if self._model is None:
                raise RemoteProtocolError(f"{self.identity.node} has no model yet")
            caller = key_of_caller(context) or theirs.node
            await self._model.send(caller, theirs.node, request.own, context)
        except NotYet as exc:
            await refuse(context, exc)
        except EdgenodeError as exc:
            await reject(context, exc)

    async def Push(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """One in-neighbour's stream: pushes in, answers out, in any order. The sender ends it, when it is done."""
        sender, stream = "", None
        try:
            async with asyncio.timeout(None) as silence:
                await self._is_open.wait()
                silence.reschedule(asyncio.get_running_loop().time() + _HELLO_S)
                first = await anext(aiter(requests), b"")
            if not first:  # a relay may have ended the connection
                raise TransportError("the stream ended before its greeting")
            identity = self.identity.check(_hello(first), peer_of(context))
            require_name(context, identity.node)
            sender = identity.node
            if sender in self._streams:
                self._streams[sender].replaced.set()
            slots = asyncio.Semaphore(self._window)
            stream = self._streams[sender] = _Stream(peer_of(context), slots, Answers(self._window))
            await context.write(peer_pb2.PushResponse(hello=self.identity.to_wire()))
            async with asyncio.TaskGroup() as group:
                older = group.create_task(_end_if_replaced(stream), name=f"newer stream of {sender}")
                writing = group.create_task(self._write(stream.answers, context), name=f"answers to {sender}")
                await self._read(identity, requests, stream)
                stream.answers.end()
                await writing
                older.cancel()
        except TimeoutError:
            await refuse(context, TransportError(f"no greeting in {_HELLO_S:g} s"))
        except (EdgenodeError, ExceptionGroup) as exc:
            cause = first_cause(exc)
            if isinstance(cause, EdgenodeError) and not isinstance(cause, TransportError):
                self.faults.note(sender or node_of_caller(context), "push", cause)
            await refuse(context, cause)
        finally:
            if stream is not None and self._streams.get(sender) is stream:
                del self._streams[sender]

    async def _read(self, sender: Identity, requests: AsyncIterator[bytes], stream: _Stream) -> None:
        """Deliver pushes. While a window of them waits, HTTP/2 holds the sender up."""
        reader = PushReader(sender, self._max_payload_bytes)
        async for frame in requests:
            if frame == DONE:
                reader.end()
                self._unfinished.discard(sender.node)
                return
            if message := await parsed(reader.feed, frame, may_have_records(frame)):
                await stream.slots.acquire()
                stream.answers.hold = len(message.payload) < _HOLD_BELOW
                self._deliver(message, stream.slots.release)

    async def _write(self, answers: Answers, context: grpc.aio.ServicerContext) -> None:
        while acks := await answers.take():
            await context.write(peer_pb2.PushResponse(answers=map(ack_to_wire, acks)))


def _hello(frame: bytes) -> common_pb2.Identity:
    try:
        first: peer_pb2.PushRequest = peer_pb2.PushRequest.FromString(frame)
    except DecodeError as exc:
        raise RemoteProtocolError("malformed greeting") from exc
    return first.hello


async def _end_if_replaced(stream: _Stream) -> NoReturn:
    await stream.replaced.wait()
    raise TransportError("this node has connected again")
