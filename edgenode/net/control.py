"""Node and controller: one node-opened stream of reports up and orders down. Training never waits for it.

The controller's end keeps the newest link of each node; what an older link still says is dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

import grpc
import grpc.aio
import stamina
import structlog

from edgenode.core.protocol.control import (
    Decree,
    Fence,
    FenceAnswered,
    Fetched,
    Halt,
    Hello,
    Joined,
    Lost,
    Offer,
    OfferAnswered,
    Progressed,
    Refuse,
    Sponsor,
    Welcome,
)
from edgenode.core.protocol.messages import AnswerFence, AnswerOffer, Decreed, Fenced, Halted, RecordOffered
from edgenode.core.protocol.status import NodeStatus
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.peers import probe
from edgenode.net.proto import common_pb2, control_pb2, control_pb2_grpc
from edgenode.net.rpc import broken, channel, reject, side_by_side
from edgenode.net.status_wire import node_status_from_wire, node_status_to_wire
from edgenode.net.wire import (
    Identity,
    leadership_from_wire,
    leadership_to_wire,
    plan_from_wire,
    records_from_wire,
    records_to_wire,
)

log = structlog.get_logger()

SERVICE = "edgenode.v1.ControlService"
_REMIND_EVERY_S = 10.0
_PROBE_S = 5.0


@dataclass(frozen=True)
class Sponsored:
    """Where a newcomer is to fetch the model, and whom it must be able to reach."""

    address: str
    others: tuple[str, ...]


@dataclass(frozen=True)
class Stay:
    """A member may not leave, and why."""

    reason: str


Order = Hello | Halted | Welcome | RecordOffered | Fenced | Decreed | Sponsored | Stay
Report = Joined | Lost | Progressed | OfferAnswered | FenceAnswered | Fetched


# --- the node's end ---------------------------------------------------------------------------------


class ControlLink:
    """A node's link to its controller: dials again whenever it breaks, for as long as it runs.

    Args:
        find: the controller's host:port, sought anew for every attempt; raises TransportError.
        join: what to say first, made anew for every attempt.
        ordered: takes what the controller says; a Hello comes first, and TransportError from it ends the session.
        waiting: told who is present and how many are missing before the founding.
    """

    def __init__(
        self,
        identity: Identity,
        find: Callable[[], Awaitable[str]],
        join: Callable[[str], Joined],
        ordered: Callable[[Order], None],
        waiting: Callable[[tuple[str, ...], int], None],
    ) -> None:
        self._identity, self._find, self._join = identity, find, join
        self._ordered, self._waiting = ordered, waiting
        self._answers: list[control_pb2.AttendRequest] = []
        self._progress: control_pb2.Progress | None = None  # the newest report
        self._is_said = True
        self._leaving = False
        self._target = ""
        self._wake = asyncio.Event()
        self._left = asyncio.Event()
        self._down_since: float | None = None
        self.connected = asyncio.Event()

    def report(self, progressed: Progressed, status: NodeStatus) -> None:
        """Report to the controller; an unsent older report is replaced."""
        self._progress, self._is_said = _progress_to_wire(progressed, status), False
        self._wake.set()

    def answer(self, answer: AnswerOffer | AnswerFence) -> None:
        """Answer an offer, or a fence."""
        self._say(_answer_to_wire(answer))

    def fetched(self) -> None:
        """Say that we have the model."""
        self._say(control_pb2.AttendRequest(fetched=control_pb2.Fetched()))

    def leave(self) -> None:
        """Ask to leave."""
        self._say(control_pb2.AttendRequest(leave=control_pb2.Leave()))

    def _say(self, request: control_pb2.AttendRequest) -> None:
        self._answers.append(request)
        self._wake.set()

    async def run(self) -> None:
        """Attend until cancelled, or flushed.

        Raises:
            RemoteProtocolError: the controller refused this node for good.
        """
        while not self._left.is_set():
            said_at = 0.0
            async for retry in stamina.retry_context(
                on=TransportError, attempts=None, timeout=None, wait_initial=0.1, wait_max=2.0, wait_jitter=0.5
            ):
                with retry:
                    try:
                        await self._session()
                    except TransportError as exc:
                        now = time.monotonic()
                        self._down_since = self._down_since or now
                        if now - max(self._down_since, said_at) >= _REMIND_EVERY_S:
                            said_at, since_s = now, round(now - self._down_since)
                            log.warning("cannot reach the controller", since_s=since_s, why=str(exc))
                        raise
                    finally:
                        self.connected.clear()

    async def flush(self, timeout_s: float) -> None:
        """Let the controller hear the last report, and leave; one that is gone is not waited for.

        The link ends from our side first, and then from the controller's: only that says that it has read everything.
        """
        self._leaving = True
        self._wake.set()
        if self.connected.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), timeout_s)

    async def _session(self) -> None:
        target = self._target = await self._find()
        async with channel(target) as to_controller:
            stream = control_pb2_grpc.ControlServiceStub(to_controller).Attend()
            try:
                await stream.write(_join_to_wire(self._identity, self._join(target)))
                self._answers.clear()  # the controller repeats an offer whose answer it did not get
                self._is_said = self._progress is None
                await side_by_side({"orders": self._read, "reports": self._write}, stream)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, ExceptionGroup) as exc:
                raise broken(exc, target) from exc

    async def _read(self, stream: grpc.aio.StreamStreamCall) -> None:
        while (response := await stream.read()) is not grpc.aio.EOF:
            if response.WhichOneof("order") == "hello":  # what we dialled is the best address we know
                leadership = replace(leadership_from_wire(response.hello.leadership), address=self._target)
                self._ordered(Hello(self._identity.node, leadership, response.hello.paused))
            self.connected.set()
            self._down_since = None
            match response.WhichOneof("order"):
                case "welcome":
                    plan = plan_from_wire(response.welcome.records)
                    if plan is None:
                        raise RemoteProtocolError("a welcome without a plan")
                    self._ordered(Welcome(self._identity.node, plan, response.welcome.round))
                case "offer":
                    (record,) = records_from_wire([response.offer.record])
                    self._ordered(RecordOffered(record))
                case "halt":
                    self._ordered(Halted(response.halt.halted))
                case "fence":
                    fence = response.fence
                    self._ordered(Fenced(fence.term, fence.ballot, frozenset(fence.evicted)))
                case "eviction_committed":
                    self._ordered(Decreed(records_from_wire(response.eviction_committed.records)))
                case "sponsor":
                    self._ordered(Sponsored(response.sponsor.address, tuple(response.sponsor.others)))
                case "stay":
                    self._ordered(Stay(response.stay))
                case "refusal":
                    raise RemoteProtocolError(f"refused by the controller at {self._target}: {response.refusal.reason}")
                case "standby":
                    self._waiting(tuple(response.standby.present), response.standby.missing)
        if not self._leaving:
            raise TransportError(f"the controller at {self._target} closed the stream")
        self._left.set()

    async def _write(self, stream: grpc.aio.StreamStreamCall) -> None:
        while True:
            while self._answers:
                await stream.write(self._answers.pop(0))
            if not self._is_said:
                self._is_said = True
                await stream.write(control_pb2.AttendRequest(progress=self._progress))
            elif self._leaving:  # and the last report, which may have come during the last write, is said
                await stream.done_writing()
                return
            else:
                self._wake.clear()
                await self._wake.wait()


# --- the controller's end ---------------------------------------------------------------------------


class ControlServer(control_pb2_grpc.ControlServiceServicer):
    """Takes every node's stream; hands events to ``post``, reports to ``reported``, wishes to ``leaving``.

    Args:
        planned: the address that the plan names for a node, or "".
    """

    def __init__(
        self,
        identity: Identity,
        post: Callable[[Report], None],
        reported: Callable[[str, NodeStatus], None],
        leaving: Callable[[str], None],
        planned: Callable[[str], str],
    ) -> None:
        self._identity, self._post, self._reported, self._leaving = identity, post, reported, leaving
        self._planned = planned
        self._links: dict[str, asyncio.Queue[control_pb2.AttendResponse | None]] = {}
        self._addresses: dict[str, str] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)

    def perform(self, action: Hello | Halt | Welcome | Refuse | Offer | Fence | Decree | Sponsor) -> None:
        """Send an order; to a node without a link it is dropped, and said again when the node is back."""
        orders = self._links.get(action.node)
        if orders is None:
            return
        orders.put_nowait(_order_to_wire(action))
        if isinstance(action, Refuse):
            orders.put_nowait(None)

    def stay(self, node: str, reason: str) -> None:
        """Tell a node that it may not leave."""
        if node in self._links:
            self._links[node].put_nowait(control_pb2.AttendResponse(stay=reason))

    def standby(self, present: list[str], missing: int) -> None:
        """Tell everyone who is waiting how many are missing."""
        for orders in self._links.values():
            standby = control_pb2.Standby(present=present, missing=missing)
            orders.put_nowait(control_pb2.AttendResponse(standby=standby))

    async def Attend(
        self, requests: AsyncIterator[control_pb2.AttendRequest], context: grpc.aio.ServicerContext
    ) -> None:
        """One node's stream."""
        orders: asyncio.Queue[control_pb2.AttendResponse | None] = asyncio.Queue()
        node = ""
        try:
            joined = self._joined(await anext(aiter(requests), control_pb2.AttendRequest()), context.peer())
            if rival := await self._rival(joined):
                why = f"node id {joined.node!r} is taken by {rival}; give the one at {joined.address} another --name"
                log.warning("refused a node", node=joined.node, reason=why)
                await context.write(_order_to_wire(Refuse(joined.node, why)))
                return
            node = joined.node
            self._hang_up(node)
            self._links[node], self._addresses[node] = orders, joined.address
            self._post(joined)
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(node, requests, orders), name=f"reports of {node}")
                while (order := await orders.get()) is not None:
                    await context.write(order)
                reader.cancel()
        except (EdgenodeError, ExceptionGroup) as exc:
            await reject(context, first_cause(exc), node)
        finally:
            if self._links.get(node) is orders:
                del self._links[node]
                self._post(Lost(node))

    def _joined(self, first: control_pb2.AttendRequest, peer: str) -> Joined:
        join = first.join
        self._identity.check(join.identity, peer)
        return Joined(
            node=join.identity.node,
            address=join.address,
            run_digest=join.identity.run_digest,
            rounds_per_epoch=max(1, join.rounds_per_epoch),
            saved=frozenset(join.saved.rounds),
            plan=plan_from_wire(join.saved.records),
            running=join.running,
            process=join.identity.process,
            fenced=frozenset(join.fenced),
            follows=leadership_from_wire(join.follows) if join.HasField("follows") else None,
        )

    async def _rival(self, joined: Joined) -> str:
        """Where another living process of this name was last; empty if there is none.

        Link or no link: it may have lost sight of us. A device that came back has left its old address.
        """
        asked = {"", joined.address}
        while (last := self._addresses.get(joined.node) or self._planned(joined.node)) not in asked:
            there = await probe(last, self._identity, _PROBE_S)
            if there and there.is_of(self._identity, joined.node) and there.process != joined.process:
                return last
            asked.add(last)
        return ""

    def _hang_up(self, node: str) -> None:
        """An older link of this name is half open: its owner is here again, or gone."""
        if node in self._links:
            self._links.pop(node).put_nowait(None)
            self._post(Lost(node))

    async def _read(
        self,
        node: str,
        requests: AsyncIterator[control_pb2.AttendRequest],
        orders: asyncio.Queue[control_pb2.AttendResponse | None],
    ) -> None:
        async for request in requests:
            if self._links.get(node) is not orders:
                break
            match request.WhichOneof("report"):
                case "progress":
                    progressed = _progressed_from_wire(node, request.progress)
                    self._reported(node, node_status_from_wire(request.progress))
                    self._post(progressed)
                case "answer":
                    self._post(OfferAnswered(node, _answer_from_wire(request.answer)))
                case "fence_answer":
                    self._post(FenceAnswered(node, _fence_answer_from_wire(request.fence_answer)))
                case "fetched":
                    self._post(Fetched(node))
                case "leave":
                    self._leaving(node)
                case other:
                    raise RemoteProtocolError(f"unexpected report {other!r}")
        orders.put_nowait(None)


# --- conversions ------------------------------------------------------------------------------------


def _join_to_wire(identity: Identity, joined: Joined) -> control_pb2.AttendRequest:
    records = records_to_wire(joined.plan.records if joined.plan else ())
    return control_pb2.AttendRequest(
        join=control_pb2.Join(
            identity=identity.to_wire(),
            address=joined.address,
            rounds_per_epoch=joined.rounds_per_epoch,
            saved=common_pb2.Saved(rounds=sorted(joined.saved), records=records),
            running=joined.running,
            fenced=sorted(joined.fenced),
            follows=leadership_to_wire(joined.follows) if joined.follows else None,
        )
    )


def _order_to_wire(
    action: Hello | Halt | Welcome | Refuse | Offer | Fence | Decree | Sponsor,
) -> control_pb2.AttendResponse:
    match action:
        case Hello(_, leadership, paused):
            return control_pb2.AttendResponse(
                hello=control_pb2.Hello(leadership=leadership_to_wire(leadership), paused=paused)
            )
        case Halt(_, halted):
            return control_pb2.AttendResponse(halt=control_pb2.Halt(halted=halted))
        case Welcome(_, plan, t):
            welcome = control_pb2.Welcome(records=records_to_wire(plan.records), round=t)
            return control_pb2.AttendResponse(welcome=welcome)
        case Refuse(_, reason):
            return control_pb2.AttendResponse(refusal=control_pb2.Refusal(reason=reason))
        case Offer(_, record):
            return control_pb2.AttendResponse(offer=control_pb2.Offer(record=record.to_json().encode()))
        case Fence(_, term, ballot, evicted):
            fence = control_pb2.Fence(term=term, ballot=ballot, evicted=sorted(evicted))
            return control_pb2.AttendResponse(fence=fence)
        case Decree(_, records):
            return control_pb2.AttendResponse(
                eviction_committed=control_pb2.EvictionCommitted(records=records_to_wire(records))
            )
        case Sponsor(_, sponsor, others):
            addresses = [member.address for member in others]
            return control_pb2.AttendResponse(sponsor=control_pb2.Sponsor(address=sponsor.address, others=addresses))
    assert_never(action)


def _progress_to_wire(progressed: Progressed, status: NodeStatus) -> control_pb2.Progress:
    wire = node_status_to_wire(status)
    wire.next_round, wire.number, wire.digest = progressed.next_round, progressed.number, progressed.digest
    if progressed.farewell is not None:
        wire.farewell.CopyFrom(_fence_answer_to_wire(progressed.farewell))
    return wire


def _progressed_from_wire(node: str, wire: control_pb2.Progress) -> Progressed:
    farewell = _fence_answer_from_wire(wire.farewell) if wire.HasField("farewell") else None
    return Progressed(node, wire.next_round, wire.number, wire.digest, farewell)


def _answer_to_wire(answer: AnswerOffer | AnswerFence) -> control_pb2.AttendRequest:
    if isinstance(answer, AnswerOffer):
        wire = control_pb2.OfferAnswer(
            number=answer.number, digest=answer.digest, accepted=answer.accepted, next_round=answer.next_round
        )
        return control_pb2.AttendRequest(answer=wire)
    return control_pb2.AttendRequest(fence_answer=_fence_answer_to_wire(answer))


def _fence_answer_to_wire(answer: AnswerFence) -> control_pb2.FenceAnswer:
    """As it is sent by itself, or with the last report of a node."""
    return control_pb2.FenceAnswer(
        term=answer.term,
        ballot=answer.ballot,
        begun=answer.begun,
        begun_rounds=dict(answer.begun_rounds),
        records=records_to_wire(answer.records),
    )


def _fence_answer_from_wire(wire: control_pb2.FenceAnswer) -> AnswerFence:
    plan = plan_from_wire(wire.records)
    if plan is None:
        raise RemoteProtocolError("a fence answered without a plan")
    return AnswerFence(wire.term, wire.ballot, wire.begun, tuple(sorted(wire.begun_rounds.items())), plan.records)


def _answer_from_wire(wire: control_pb2.OfferAnswer) -> AnswerOffer:
    return AnswerOffer(wire.number, wire.digest, wire.accepted, wire.next_round)
