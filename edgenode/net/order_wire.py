"""Orders and reports <-> protobuf messages, in both directions. What comes from outside is checked here."""

from __future__ import annotations

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
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.period import DataSize
from edgenode.errors import RemoteProtocolError
from edgenode.net.converter import AS_IS, Converter, a_set, each, judged, message, one_of
from edgenode.net.proto import control_pb2
from edgenode.net.status_wire import BLOCKED_LINK, NODE_STATUS
from edgenode.net.text_wire import key_id_from_wire, line_from_wire, reason_from_wire
from edgenode.net.wire import (
    DATA_SIZE,
    LEADERSHIP,
    NAME,
    NAME_OR_NONE,
    PLAN,
    REASON,
    RECORDS,
    Identity,
    begun_rounds_from_wire,
    records_from_wire,
    records_to_wire,
    saved_from_wire,
    saved_to_wire,
)


def _required_plan(wire: list[bytes], what: str) -> Plan:
    plan = PLAN.from_wire(wire)
    if plan is None:
        raise RemoteProtocolError(f"{what} without a plan")
    return plan


def _record_from_wire(wire: bytes) -> Record:
    (record,) = records_from_wire([wire])
    return record


_WELCOMES_PLAN = Converter(PLAN.to_wire, lambda wire: _required_plan(wire, "a welcome"))
_RECORD = Converter[Record, bytes](lambda record: record.to_json().encode(), _record_from_wire)
_LEAVE_REFUSED = Converter[LeaveRefused, str](
    lambda order: order.reason, lambda text: LeaveRefused(reason_from_wire(text)), kind=LeaveRefused
)
_ABORT = message(Abort, control_pb2.Abort, reason=REASON)
_FENCE = message(Fence, control_pb2.Fence, evicted=a_set(NAME))
_FENCE_ANSWER = message(
    FenceAnswer,
    control_pb2.FenceAnswer,
    begun_rounds=Converter(dict, begun_rounds_from_wire),
    records=Converter(records_to_wire, lambda wire: _required_plan(wire, "a fence answer").records),
)
_PROGRESS = message(Progress, control_pb2.Progress, farewell=_FENCE_ANSWER, blocked=each(BLOCKED_LINK, MOST_LINKS))
ORDERS: Converter[Order | None, control_pb2.AttendResponse] = one_of(
    control_pb2.AttendResponse,
    "order",
    hello=message(Hello, control_pb2.Hello, leadership=LEADERSHIP, revoked=a_set(AS_IS)),
    halt=message(Halt, control_pb2.Halt),
    welcome=message(Welcome, control_pb2.Welcome, plan=_WELCOMES_PLAN.at("records")),
    refusal=message(Refuse, control_pb2.Refusal, reason=REASON),
    standby=message(Standby, control_pb2.Standby, present=each(NAME)),
    sponsor=message(Sponsor, control_pb2.Sponsor),
    offer=message(Offer, control_pb2.Offer, record=_RECORD),
    fence=_FENCE,
    eviction_committed=message(EvictionCommitted, control_pb2.EvictionCommitted, records=RECORDS),
    leave_refused=_LEAVE_REFUSED,
    revoked=message(Revoked, control_pb2.Revoked, keys=a_set(AS_IS)),
    abort=_ABORT,
)
"""An order of a kind that this version does not know is None."""
REPORTS: Converter[Progress | LaterReport | None, control_pb2.AttendRequest] = one_of(
    control_pb2.AttendRequest,
    "report",
    progress=_PROGRESS,
    answer=message(OfferAnswer, control_pb2.OfferAnswer),
    fence_answer=_FENCE_ANSWER,
    fetched=message(Fetched, control_pb2.Fetched),
    leave=message(Leave, control_pb2.Leave),
    training_ended=message(TrainingEnded, control_pb2.TrainingEnded),
    stop_run=message(StopRun, control_pb2.StopRun),
    new_key=message(NewKey, control_pb2.NewKey, key=judged(key_id_from_wire)),
    abort=_ABORT,
    accusation=message(Accusation, control_pb2.Accusation, member=NAME_OR_NONE, reason=REASON),
)


def report_from_wire(wire: control_pb2.AttendRequest) -> NodeReport:
    """Decode and judge a report other than the first.

    Raises:
        RemoteProtocolError: it is malformed, a second Join, or of an unknown kind.
    """
    report = REPORTS.from_wire(wire)
    if report is None:
        raise RemoteProtocolError(f"unexpected report {wire.WhichOneof('report')!r}")
    return report


def order_has_records(wire: control_pb2.AttendResponse) -> bool:
    """Return whether an order takes long to read."""
    return wire.WhichOneof("order") in ("welcome", "offer", "eviction_committed")


def report_has_records(wire: control_pb2.AttendRequest) -> bool:
    """Return whether a report takes long to read."""
    return bool(wire.fence_answer.records or wire.progress.farewell.records)


def progress_to_wire(progress: Progress, status: NodeStatus) -> control_pb2.AttendRequest:
    """Encode the progress of a node, with its status."""
    wire = _PROGRESS.to_wire(progress)
    wire.MergeFrom(NODE_STATUS.to_wire(status))
    return control_pb2.AttendRequest(progress=wire)


def join_to_wire(identity: Identity, join: Join) -> control_pb2.AttendRequest:
    """Encode the first report of a link."""
    return control_pb2.AttendRequest(
        join=control_pb2.Join(
            identity=identity.to_wire(),
            address=join.address,
            data=DATA_SIZE.to_wire(join.data),
            saved=saved_to_wire(join.saved, join.plan),
            running=join.running,
            fence=_FENCE.to_wire(join.fence) if join.fence else None,
            follows=LEADERSHIP.to_wire(join.follows) if join.follows else None,
        )
    )


def join_from_wire(wire: control_pb2.Join) -> Join:
    """Decode and judge the first report of a link. ``Identity.check`` checks its sender.

    Raises:
        RemoteProtocolError: its plan is malformed, or a node's name.
    """
    saved, plan = saved_from_wire(wire.saved)
    return Join(
        address=line_from_wire(wire.address),
        run_digest=wire.identity.run_digest,
        data=DATA_SIZE.from_wire(wire.data) if wire.HasField("data") else DataSize(0, 1),
        saved=saved,
        plan=plan,
        running=wire.running,
        process=wire.identity.process,
        fence=_FENCE.from_wire(wire.fence) if wire.HasField("fence") else None,
        follows=LEADERSHIP.from_wire(wire.follows) if wire.HasField("follows") else None,
        workload=wire.identity.workload,
        workload_digest=wire.identity.workload_digest,
    )
