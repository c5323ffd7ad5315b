"""Orders and reports <-> protobuf messages, in both directions. What comes from outside is checked here."""

from __future__ import annotations

from typing import assert_never

from edgenode.core.protocol.controller.links import MOST_LINKS
from edgenode.core.protocol.orders import (
    Abort,
    Accusation,
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Fetched,
    Halt,
    Hello,
    Join,
    LaterReport,
    Leave,
    LeaveRefused,
    NewKey,
    NodeReport,
    Offer,
    OfferAnswer,
    Order,
    Progress,
    Refuse,
    Revoked,
    Sponsor,
    Standby,
    StopRun,
    TrainingEnded,
    Welcome,
)
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.period import DataSize
from edgenode.errors import RemoteProtocolError
from edgenode.net.proto import control_pb2
from edgenode.net.status_wire import blocked_from_wire, blocked_to_wire, node_status_to_wire
from edgenode.net.text_wire import key_id_from_wire, line_from_wire, name_from_wire, reason_from_wire
from edgenode.net.wire import (
    Identity,
    begun_rounds_from_wire,
    data_size_from_wire,
    data_size_to_wire,
    leadership_from_wire,
    leadership_to_wire,
    plan_from_wire,
    records_from_wire,
    records_to_wire,
    saved_from_wire,
    saved_to_wire,
)


def order_to_wire(order: Order) -> control_pb2.AttendResponse:
    """An order."""
    match order:
        case Hello(leadership, paused, revoked):
            leads = leadership_to_wire(leadership)
            hello = control_pb2.Hello(leadership=leads, paused=paused, revoked=sorted(revoked))
            return control_pb2.AttendResponse(hello=hello)
        case Halt(halted):
            return control_pb2.AttendResponse(halt=control_pb2.Halt(halted=halted))
        case Welcome(plan, t):
            welcome = control_pb2.Welcome(records=records_to_wire(plan.records), round=t)
            return control_pb2.AttendResponse(welcome=welcome)
        case Refuse(reason):
            return control_pb2.AttendResponse(refusal=control_pb2.Refusal(reason=reason))
        case Standby(present, missing):
            return control_pb2.AttendResponse(standby=control_pb2.Standby(present=present, missing=missing))
        case Sponsor(address, others):
            return control_pb2.AttendResponse(sponsor=control_pb2.Sponsor(address=address, others=others))
        case Offer(record):
            return control_pb2.AttendResponse(offer=control_pb2.Offer(record=record.to_json().encode()))
        case Fence():
            return control_pb2.AttendResponse(fence=_fence_to_wire(order))
        case EvictionCommitted(records):
            committed = control_pb2.EvictionCommitted(records=records_to_wire(records))
            return control_pb2.AttendResponse(eviction_committed=committed)
        case LeaveRefused(reason):
            return control_pb2.AttendResponse(stay=reason)
        case Revoked(keys):
            return control_pb2.AttendResponse(revoked=control_pb2.Revoked(keys=sorted(keys)))
        case Abort(reason):
            return control_pb2.AttendResponse(abort=control_pb2.Abort(reason=reason))
    assert_never(order)


def order_has_records(wire: control_pb2.AttendResponse) -> bool:
    """Return whether an order takes long to read."""
    return wire.WhichOneof("order") in ("welcome", "offer", "eviction_committed")


def report_has_records(wire: control_pb2.AttendRequest) -> bool:
    """Return whether a report takes long to read."""
    return bool(wire.fence_answer.records or wire.progress.farewell.records)


def order_from_wire(wire: control_pb2.AttendResponse) -> Order | None:
    """An order from outside. None if this version does not know its kind.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    match wire.WhichOneof("order"):
        case "hello":
            hello = wire.hello
            return Hello(leadership_from_wire(hello.leadership), hello.paused, frozenset(hello.revoked))
        case "halt":
            return Halt(wire.halt.halted)
        case "welcome":
            plan = plan_from_wire(wire.welcome.records)
            if plan is None:
                raise RemoteProtocolError("a welcome without a plan")
            return Welcome(plan, wire.welcome.round)
        case "refusal":
            return Refuse(reason_from_wire(wire.refusal.reason))
        case "standby":
            return Standby(tuple(map(name_from_wire, wire.standby.present)), wire.standby.missing)
        case "sponsor":
            return Sponsor(wire.sponsor.address, tuple(wire.sponsor.others))
        case "offer":
            (record,) = records_from_wire([wire.offer.record])
            return Offer(record)
        case "fence":
            return _fence_from_wire(wire.fence)
        case "eviction_committed":
            return EvictionCommitted(records_from_wire(wire.eviction_committed.records))
        case "stay":
            return LeaveRefused(reason_from_wire(wire.stay))
        case "revoked":
            return Revoked(frozenset(wire.revoked.keys))
        case "abort":
            return Abort(reason_from_wire(wire.abort.reason))
    return None


def join_to_wire(identity: Identity, join: Join) -> control_pb2.AttendRequest:
    """The first report of a link."""
    return control_pb2.AttendRequest(
        join=control_pb2.Join(
            identity=identity.to_wire(),
            address=join.address,
            data=data_size_to_wire(join.data),
            saved=saved_to_wire(join.saved, join.plan),
            running=join.running,
            fence=_fence_to_wire(join.fence) if join.fence else None,
            follows=leadership_to_wire(join.follows) if join.follows else None,
        )
    )


def join_from_wire(wire: control_pb2.Join) -> Join:
    """The first report of a link, from outside. ``Identity.check`` checks its sender.

    Raises:
        RemoteProtocolError: its plan is malformed, or a node's name.
    """
    saved, plan = saved_from_wire(wire.saved)
    return Join(
        address=line_from_wire(wire.address),
        run_digest=wire.identity.run_digest,
        data=data_size_from_wire(wire.data) if wire.HasField("data") else DataSize(0, 1),
        saved=saved,
        plan=plan,
        running=wire.running,
        process=wire.identity.process,
        fence=_fence_from_wire(wire.fence) if wire.HasField("fence") else None,
        follows=leadership_from_wire(wire.follows) if wire.HasField("follows") else None,
        workload=wire.identity.workload,
        workload_digest=wire.identity.workload_digest,
    )


def progress_to_wire(progress: Progress, status: NodeStatus) -> control_pb2.AttendRequest:
    """Encode the progress of a node, with its status."""
    wire = node_status_to_wire(status)
    wire.next_round, wire.number, wire.digest = progress.next_round, progress.number, progress.digest
    wire.blocked.extend(map(blocked_to_wire, progress.blocked))
    if progress.farewell is not None:
        wire.farewell.CopyFrom(_fence_answer_to_wire(progress.farewell))
    return control_pb2.AttendRequest(progress=wire)


def report_to_wire(report: LaterReport) -> control_pb2.AttendRequest:
    """A report other than Join and Progress. Each of them is sent."""
    match report:
        case OfferAnswer(number, digest, accepted, next_round):
            answer = control_pb2.OfferAnswer(number=number, digest=digest, accepted=accepted, next_round=next_round)
            return control_pb2.AttendRequest(answer=answer)
        case FenceAnswer():
            return control_pb2.AttendRequest(fence_answer=_fence_answer_to_wire(report))
        case Fetched():
            return control_pb2.AttendRequest(fetched=control_pb2.Fetched())
        case Leave():
            return control_pb2.AttendRequest(leave=control_pb2.Leave())
        case TrainingEnded():
            return control_pb2.AttendRequest(training_ended=control_pb2.TrainingEnded())
        case StopRun():
            return control_pb2.AttendRequest(stop_run=control_pb2.StopRun())
        case NewKey(key):
            return control_pb2.AttendRequest(new_key=control_pb2.NewKey(key=key))
        case Abort(reason):
            return control_pb2.AttendRequest(abort=control_pb2.Abort(reason=reason))
        case Accusation(member, incarnation, t, reason):
            accusation = control_pb2.Accusation(member=member, incarnation=incarnation, round=t, reason=reason)
            return control_pb2.AttendRequest(accusation=accusation)
    assert_never(report)


def report_from_wire(wire: control_pb2.AttendRequest) -> NodeReport:
    """A report from outside, other than the first.

    Raises:
        RemoteProtocolError: it is malformed, a second Join, or of an unknown kind.
    """
    match wire.WhichOneof("report"):
        case "progress":
            progress = wire.progress
            farewell = _fence_answer_from_wire(progress.farewell) if progress.HasField("farewell") else None
            blocked = tuple(map(blocked_from_wire, progress.blocked[:MOST_LINKS]))
            return Progress(progress.next_round, progress.number, progress.digest, farewell, blocked)
        case "answer":
            answer = wire.answer
            return OfferAnswer(answer.number, answer.digest, answer.accepted, answer.next_round)
        case "fence_answer":
            return _fence_answer_from_wire(wire.fence_answer)
        case "fetched":
            return Fetched()
        case "leave":
            return Leave()
        case "training_ended":
            return TrainingEnded()
        case "stop_run":
            return StopRun()
        case "new_key":
            return NewKey(key_id_from_wire(wire.new_key.key))
        case "abort":
            return Abort(reason_from_wire(wire.abort.reason))
        case "accusation":
            accusation = wire.accusation
            member, reason = accusation.member, reason_from_wire(accusation.reason)
            return Accusation(
                name_from_wire(member) if member else "", accusation.incarnation, accusation.round, reason
            )
        case other:
            raise RemoteProtocolError(f"unexpected report {other!r}")


def _fence_to_wire(fence: Fence) -> control_pb2.Fence:
    return control_pb2.Fence(
        term=fence.term,
        ballot=fence.ballot,
        evicted=sorted(fence.evicted),
        number=fence.number,
        run=fence.run,
        signature=fence.signature,
    )


def _fence_from_wire(wire: control_pb2.Fence) -> Fence:
    evicted = frozenset(map(name_from_wire, wire.evicted))
    return Fence(wire.term, wire.ballot, evicted, wire.number, wire.run, wire.signature)


def _fence_answer_to_wire(answer: FenceAnswer) -> control_pb2.FenceAnswer:
    return control_pb2.FenceAnswer(
        term=answer.term,
        ballot=answer.ballot,
        begun=answer.begun,
        begun_rounds=dict(answer.begun_rounds),
        records=records_to_wire(answer.records),
    )


def _fence_answer_from_wire(wire: control_pb2.FenceAnswer) -> FenceAnswer:
    plan = plan_from_wire(wire.records)
    if plan is None:
        raise RemoteProtocolError("a fence answer without a plan")
    return FenceAnswer(wire.term, wire.ballot, wire.begun, begun_rounds_from_wire(wire.begun_rounds), plan.records)
