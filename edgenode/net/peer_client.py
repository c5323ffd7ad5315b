"""The sending end of the peer service: one stream to an out-neighbour. `peers` has all of them.

A push is never lost silently. Its link repeats it, over as many connections as it takes, until the receiver answers it.
A receiver that cannot be reached directly may be reached by a relay. The link then tries both in turn, and leaves the
relay when a direct connection can be opened again. At first it tries only relays where members wait, which know at once
whether the receiver is there, and the direct connection has a head start (as in RFC 8305). A firewall that drops
packets ends no connection. So a link that waits for an answer for long makes sure that a new connection can be opened.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import grpc
import grpc.aio
import structlog

from edgenode.core.protocol.events import Answered
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError
from edgenode.net.faults import Faults
from edgenode.net.link_meter import LinkMeter
from edgenode.net.link_watch import LinkWatch
from edgenode.net.peer_calls import reach
from edgenode.net.proto import peer_pb2
from edgenode.net.push_wire import DONE, PushWriter
from edgenode.net.relay_client import Relay, Way, way_by
from edgenode.net.retry import PATIENT_CONNECT_S, Backoff, Outage, stay_connected
from edgenode.net.rpc import broken, channel, parsed, side_by_side
from edgenode.net.wire import MOST_ANSWERS, Identity, ack_from_wire
from edgenode.security.subject import Subject

log = structlog.get_logger()

PUSH = "/edgenode.v1.PeerService/Push"
_LINK_BACKOFF = Backoff(initial_s=0.05, max_s=1.0, jitter_s=0.2)
_HELLO_S = 10.0
_GRPC_PREFIX_BYTES = 5
_HEAD_START_S = 0.5  # a direct connection takes four round trips
_DIALLED_BY_RELAYS_AFTER_S = 2.0  # a receiver that starts again is back by then
_STALLED_S = 3.0  # plus what answers usually take
_CHECK_EVERY_S = 0.5
_BETTER_EVERY_S = 2.0
_IDLE_S = 10.0
_REACH_S = 2.0
_MOST_CHECK_WAIT_S = 60.0


@dataclass(frozen=True)
class PeerAddresses:
    """The addresses of a peer, the most likely first, and the process that is meant.

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
        watch: takes whether the peer can be reached directly.
        relays: returns the processes that may relay to the peer.
        count: takes the bytes of every gRPC message sent, repeats and framing included.
    """

    def __init__(
        self,
        to: str,
        identity: Identity,
        peer_addresses: Callable[[], PeerAddresses],
        post: Callable[[Answered], None],
        faults: Faults | None = None,
        watch: LinkWatch | None = None,
        relays: Callable[[], Sequence[Relay]] = tuple,
        count: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.to, self._count = to, count
        self._watch, self._relays, self._good_relay = watch, relays, ""
        self._by_relay = False  # whether the next attempt goes by a relay
        self._direct_again, self._done = asyncio.Event(), asyncio.Event()
        self._pushed_at: dict[int, float] = {}  # of the unanswered pushes
        self._usual_s = 0.0  # what an answer takes, as a moving average
        self._answered_at = 0.0
        self._meter = LinkMeter()  # of the connection
        self._identity, self._peer_addresses, self._post = identity, peer_addresses, post
        self._faults = faults or Faults()
        self._unanswered: dict[int, Message] = {}
        self._outbox: deque[Message] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._attempts = itertools.count()
        self._outage = Outage(
            lambda since_s, why: log.warning("cannot reach a peer", peer=to, since_s=since_s, why=why)
        )

    def push(self, message: Message) -> None:
        """Queue a message. It stays here until it is answered."""
        self._unanswered[message.round] = message
        self._pushed_at[message.round] = time.monotonic()
        self._outbox.append(message)
        self._wake.set()

    def close(self) -> None:
        """Let ``run`` return once everything is answered."""
        self._closing = True
        self._wake.set()
        self._note_done()

    def go_direct(self) -> None:
        """The peer can be reached without the relay again."""
        self._direct_again.set()
        self._wake.set()

    async def run(self) -> None:
        """Stay connected until closed, whatever the peer answers."""
        await stay_connected(self._connect, self._is_done, self._outage, _LINK_BACKOFF)

    def _is_done(self) -> bool:
        return self._closing and not self._unanswered

    def _note_done(self) -> None:
        if self._is_done():
            self._wake.set()
            self._done.set()

    async def _connect(self) -> None:
        try:
            await self._connect_once()
        except TransportError:
            raise
        except EdgenodeError as exc:
            self._faults.note(self.to, "answer", exc)
            raise TransportError(str(exc)) from exc

    async def _connect_once(self) -> None:
        failing_s = self._watch.failing_s(self.to) if self._watch else 0.0
        if failing_s:
            await self._until_needed()
            if self._is_done():
                return
        peer = self._peer_addresses()
        at_first = failing_s < _DIALLED_BY_RELAYS_AFTER_S
        relays = [relay for relay in self._relays() if relay.only_waiting or not at_first] if self._unanswered else []
        if self._by_relay and failing_s and relays:
            self._by_relay = False
            await self._connect_by_relay(peer, relays)
            return
        attempt = next(self._attempts)
        if not peer.addresses:
            raise TransportError(f"no address of {self.to} is known yet")
        target = (self._watch.found(self.to) if self._watch else "") or peer.addresses[attempt % len(peer.addresses)]
        began = self._answered_at = time.monotonic()
        connect_s = _HEAD_START_S if at_first and relays else self._outage.connect_s
        if self._direct_again.is_set():
            connect_s = PATIENT_CONNECT_S  # as the probe that has reached it
        try:
            await self._converse(target, peer, connect_s)
        except EdgenodeError as exc:
            self._by_relay = True
            if self._watch and self._unanswered:
                took_s = time.monotonic() - began if self._answered_at == began else 0.0  # without an answer
                self._watch.failed(self.to, target, str(exc).removeprefix(f"{target}: "), took_s)
            raise

    async def _until_needed(self) -> None:
        """Do not dial a peer that cannot be reached before there is something to push."""
        while not (self._unanswered or self._closing or self._direct_again.is_set()):
            self._wake.clear()
            await self._wake.wait()

    async def _connect_by_relay(self, peer: PeerAddresses, relays: Sequence[Relay]) -> None:
        """Try one relay after the other, first this process and the one that worked last. A connection ends it."""
        tried = []
        first = (self._identity.node, self._good_relay)
        for relay in sorted(relays, key=lambda relay: relay.name not in first):
            self._good_relay = ""
            if (ended := await self._converse_by(relay, peer)) is None:
                return
            if self._good_relay:
                raise ended
            tried.append(str(ended))
        raise TransportError("; ".join(tried))

    async def _converse_by(self, relay: Relay, peer: PeerAddresses) -> EdgenodeError | None:
        """One connection by a relay. Return what ended it, or None if everything is answered."""
        async with way_by(relay, self._identity.security, self.to) as way:
            try:
                # A relay may have to connect to the receiver, and says why it cannot. That alone may take long.
                await self._converse(way.address, peer, _HELLO_S, way)
            except TransportError as exc:
                return exc if self._good_relay else TransportError(f"by way of {relay.name}: {way.why or exc}")
            except EdgenodeError as exc:
                return exc
            finally:
                if self._watch:
                    self._watch.relayed(self.to, "")
        return None

    async def _converse(self, target: str, peer: PeerAddresses, connect_s: float, way: Way | None = None) -> None:
        """One connection, from its start to its end. Errors do not name the loopback port of a relay."""
        shown = target if way is None else peer.addresses[0] if peer.addresses else self.to
        server, security = Subject("node", self.to).dns_name, self._identity.security
        if peer.keys:
            security = await security.knowing(target, server, peer.keys, shown, connect_s)
        async with channel(target, security, server, connect_s) as to_peer:
            stream = to_peer.stream_stream(PUSH, None, peer_pb2.PushResponse.FromString)()
            try:
                async with asyncio.timeout(_HELLO_S):
                    await self._handshake(stream, shown, peer.incarnation)
                self._greeted(way)
                work = {f"answers of {self.to}": self._read, f"pushes to {self.to}": self._write}
                if self._watch:
                    until_better, until_stalled = partial(self._until_better, way), partial(self._until_stalled, target)
                    work[f"watch of {self.to}"] = until_better if way else until_stalled
                measured = self._watch.measured(self.to, to_peer) if self._watch else nullcontext(LinkMeter())
                async with measured as self._meter:
                    await side_by_side(work, stream)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
                raise broken(exc, shown) from exc
            except TimeoutError as exc:  # another address may be the right one
                raise TransportError(f"{shown} did not answer the greeting in {_HELLO_S:g} s") from exc

    def _greeted(self, way: Way | None) -> None:
        self._outage.end()
        self._answered_at = time.monotonic()
        if self._watch is None:
            return
        self._direct_again.clear()
        if way is not None:
            self._good_relay = way.relay
            self._watch.relayed(self.to, way.relay, way.waits)
        else:
            self._watch.works(self.to)

    async def _wait_a_little(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CHECK_EVERY_S):
                await self._done.wait()

    async def _until_better(self, way: Way | None, stream: grpc.aio.StreamStreamCall) -> None:
        """Leave the relay once there is a shorter way: a direct one, or that of a receiver which waits at this process.

        Leave it also when there has been nothing to push for long, and the receiver does not wait for it.
        """
        assert way is not None
        idle_since = looked = time.monotonic()
        own = self._identity.node
        while not self._is_done():
            if self._direct_again.is_set():
                raise TransportError(f"{self.to} can be reached directly again")
            if way.relay != own and time.monotonic() - looked > _BETTER_EVERY_S:  # a long list in a large run
                looked = time.monotonic()
                if any(relay.name == own for relay in self._relays()):
                    self._by_relay = True
                    raise TransportError(f"{self.to} has opened a connection")
            idle_since = time.monotonic() if self._unanswered or way.waits else idle_since
            if time.monotonic() - idle_since > _IDLE_S:
                raise TransportError(f"nothing to push to {self.to}")
            await self._wait_a_little()

    async def _until_stalled(self, target: str, stream: grpc.aio.StreamStreamCall) -> None:
        """Make sure that a peer which does not answer for long can be reached. It may wait for others, or train."""
        checked, wait_s = time.monotonic(), _STALLED_S
        while not self._is_done():
            await self._wait_a_little()
            now = time.monotonic()
            since = max(self._answered_at, min(self._pushed_at.values(), default=now))
            wait_s = wait_s if now - since > _STALLED_S else _STALLED_S
            if now - since <= _STALLED_S + 2 * self._usual_s or now - checked < wait_s:
                continue
            try:
                await reach(target, self.to, self._identity, _REACH_S)
            except EdgenodeError as exc:
                if self._watch and self._pushed_at:
                    self._watch.failed(self.to, target, str(exc), time.monotonic() - since)
                    raise TransportError(str(exc)) from exc
            checked, wait_s = time.monotonic(), min(2 * wait_s, _MOST_CHECK_WAIT_S)

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

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            if len(response.answers) > MOST_ANSWERS:
                raise RemoteProtocolError(f"{self.to} sent {len(response.answers)} answers in one frame")
            for answer in response.answers:
                self._answered(await parsed(partial(ack_from_wire, self.to), answer, bool(answer.records)))
            self._note_done()
        if not self._is_done():
            raise TransportError(f"{self.to} closed the stream")

    def _answered(self, ack: Ack) -> None:
        if ack.round not in self._unanswered:
            return  # answered before
        self._post(Answered(self.to, ack))
        if ack.verdict not in (Verdict.OK, Verdict.SEEN):
            raise TransportError(f"{self.to} refused round {ack.round}: {ack.detail}")
        del self._unanswered[ack.round]
        self._answered_at = time.monotonic()
        took_s = self._answered_at - self._pushed_at.pop(ack.round)
        self._usual_s += (took_s - self._usual_s) / 8

    async def _write(self, stream: grpc.aio.StreamStreamCall) -> None:
        self._outbox = deque(self._unanswered[t] for t in sorted(self._unanswered))
        writer = PushWriter()
        while True:
            while self._outbox:
                for frame in writer.frames(self._outbox.popleft()):
                    self._count(len(frame) + _GRPC_PREFIX_BYTES)
                    self._meter.sent(len(frame) + _GRPC_PREFIX_BYTES)
                    await stream.write(frame)
            if self._is_done():
                await stream.write(DONE)
                await stream.done_writing()
                return
            self._wake.clear()
            await self._wake.wait()
