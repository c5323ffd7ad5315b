"""Orders and reports <-> protobuf messages, in both directions. What comes from outside is checked here."""

from __future__ import annotations

from edgenode.core import canonical
from edgenode.core.protocol import observed, orders, relays
from edgenode.core.protocol.controller.links import MOST_LINKS
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import MAX_MEMBERS, Record
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.period import DataSize
from edgenode.errors import RemoteProtocolError
from edgenode.net.converter import Converter, a_set, each, judged, message, one_of
from edgenode.net.proto import control_pb2 as pb
from edgenode.net.status_wire import BLOCKED_LINK, NODE_STATUS
from edgenode.net.text_wire import address_from_wire, key_id_from_wire, line_from_wire, reason_from_wire
from edgenode.net.wire import (
    BEGUN_ROUNDS,
    DATA_SIZE,
    LEADERSHIP,
    LINE,
    NAME,
    NAME_OR_NONE,
    PLAN,
    REASON,
    RECORDS,
    SAVED,
    Identity,
    records_from_wire,
)

MOST_RELAYS = 16


def _required_plan(wire: list[bytes], what: str) -> Plan:
    plan = PLAN.from_wire(wire)
    if plan is None:
        raise RemoteProtocolError(f"{what} without a plan")
    return plan


_WELCOMES_PLAN = Converter(PLAN.to_wire, lambda wire: _required_plan(wire, "a welcome"))
_RECORD = Converter[Record, bytes](lambda record: record.to_json().encode(), lambda wire: records_from_wire([wire])[0])
_LEAVE_REFUSED = Converter[orders.LeaveRefused, str](
    lambda order: order.reason, lambda text: orders.LeaveRefused(reason_from_wire(text)), kind=orders.LeaveRefused
)
_ABORT = message(orders.Abort, pb.Abort, reason=REASON)
_KEYS = a_set(judged(key_id_from_wire))
_RELAY = message(
    relays.RelayAddress,
    pb.RelayAddress,
    name=NAME,
    address=judged(address_from_wire),
    key=judged(lambda key: key_id_from_wire(key) if key else ""),
)
_OBSERVED = message(observed.ObservedAddress, pb.ObservedAddress, node=NAME, address=judged(address_from_wire))
_FENCE = message(orders.Fence, pb.Fence, evicted=a_set(NAME, MAX_MEMBERS), run_id=LINE, signature=LINE)
_FENCE_ANSWER = message(
    orders.FenceAnswer,
    pb.FenceAnswer,
    begun_rounds=BEGUN_ROUNDS,
    records=Converter(RECORDS.to_wire, lambda wire: _required_plan(wire, "a fence answer").records),
)
_PROGRESS = message(
    orders.Progress, pb.Progress, digest=LINE, farewell=_FENCE_ANSWER, blocked=each(BLOCKED_LINK, MOST_LINKS)
)
ORDERS: Converter[orders.Order | None, pb.AttendResponse] = one_of(
    pb.AttendResponse,
    "order",
    hello=message(orders.Hello, pb.Hello, leadership=LEADERSHIP, revoked=_KEYS),
    halt=message(orders.Halt, pb.Halt),
    welcome=message(orders.Welcome, pb.Welcome, plan=_WELCOMES_PLAN.at("records")),
    refusal=message(orders.Refuse, pb.Refusal, reason=REASON),
    standby=message(orders.Standby, pb.Standby, present=each(NAME, MAX_MEMBERS), reason=REASON),
    sponsor=message(
        orders.Sponsor,
        pb.Sponsor,
        address=LINE,
        others=each(LINE, MAX_MEMBERS),
        name=NAME_OR_NONE,
        names=each(NAME, MAX_MEMBERS),
    ),
    offer=message(orders.Offer, pb.Offer, record=_RECORD),
    fence=_FENCE,
    eviction_committed=message(orders.EvictionCommitted, pb.EvictionCommitted, records=RECORDS),
    leave_refused=_LEAVE_REFUSED,
    revoked=message(orders.Revoked, pb.Revoked, keys=_KEYS),
    restart=message(orders.Restart, pb.Restart, reason=REASON),
    ended=message(orders.Ended, pb.Ended, node=NAME),
    relays=message(relays.Relays, pb.Relays, relays=each(_RELAY, MOST_RELAYS)),
    observed=message(observed.Observed, pb.Observed, addresses=each(_OBSERVED, MAX_MEMBERS)),
    abort=_ABORT,
)
"""An order of a kind that this version does not know is None."""
REPORTS: Converter[orders.Progress | orders.LaterReport | None, pb.AttendRequest] = one_of(
    pb.AttendRequest,
    "report",
    progress=_PROGRESS,
    answer=message(orders.OfferAnswer, pb.OfferAnswer, digest=LINE),
    fence_answer=_FENCE_ANSWER,
    fetched=message(orders.Fetched, pb.Fetched),
    leave=message(orders.Leave, pb.Leave),
    training_ended=message(orders.TrainingEnded, pb.TrainingEnded),
    stop_run=message(orders.StopRun, pb.StopRun),
    new_key=message(orders.NewKey, pb.NewKey, key=judged(key_id_from_wire)),
    abort=_ABORT,
    accusation=message(orders.Accusation, pb.Accusation, member=NAME_OR_NONE, reason=REASON),
)


def report_from_wire(wire: pb.AttendRequest) -> orders.NodeReport:
    """Decode and judge a report other than the first.

    Raises:
        RemoteProtocolError: it is malformed, a second Join, or of an unknown kind.
    """
    report = REPORTS.from_wire(wire)
    if report is None:
        raise RemoteProtocolError(f"unexpected report {wire.WhichOneof('report')!r}")
    return report


def order_has_records(wire: pb.AttendResponse) -> bool:
    """Return whether an order takes long to read."""
    return wire.WhichOneof("order") in ("welcome", "offer", "eviction_committed")


def report_has_records(wire: pb.AttendRequest) -> bool:
    """Return whether a report takes long to read."""
    return bool(wire.fence_answer.records or wire.progress.farewell.records)


def progress_to_wire(progress: orders.Progress, status: NodeStatus) -> pb.AttendRequest:
    """Encode the progress of a node, with its status."""
    wire = _PROGRESS.to_wire(progress)
    wire.MergeFrom(NODE_STATUS.to_wire(status))
    return pb.AttendRequest(progress=wire)


def join_to_wire(identity: Identity, join: orders.Join) -> pb.AttendRequest:
    """Encode the first report of a link."""
    return pb.AttendRequest(
        join=pb.Join(
            identity=identity.to_wire(),
            address=join.address,
            data=DATA_SIZE.to_wire(join.data),
            saved=SAVED.to_wire((join.saved, join.plan)),
            running=join.running,
            fence=_FENCE.to_wire(join.fence) if join.fence else None,
            follows=LEADERSHIP.to_wire(join.follows) if join.follows else None,
        )
    )


def join_from_wire(wire: pb.Join) -> orders.Join:
    """Decode and judge the first report of a link. ``Identity.check`` checks its sender.

    Raises:
        RemoteProtocolError: its plan is malformed, or a node's name, or a text or a list is too long.
    """
    if len(wire.identity.workload) > canonical.MAX_LENGTH:
        raise RemoteProtocolError(
            f"a workload of {len(wire.identity.workload)} letters: at most {canonical.MAX_LENGTH}"
        )
    saved, plan = SAVED.from_wire(wire.saved)
    return orders.Join(
        address=line_from_wire(wire.address),
        run_digest=line_from_wire(wire.identity.run_digest),
        data=DATA_SIZE.from_wire(wire.data) if wire.HasField("data") else DataSize(0, 1),
        saved=saved,
        plan=plan,
        running=wire.running,
        process=line_from_wire(wire.identity.process),
        fence=_FENCE.from_wire(wire.fence) if wire.HasField("fence") else None,
        follows=LEADERSHIP.from_wire(wire.follows) if wire.HasField("follows") else None,
        workload=wire.identity.workload,
        workload_digest=line_from_wire(wire.identity.workload_digest),
    )
