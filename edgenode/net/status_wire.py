"""Statuses <-> protobuf messages, in both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import (
    COUNTERS,
    FAULT_KINDS,
    ClusterStatus,
    Fault,
    LinkView,
    NodeState,
    NodeStatus,
    NodeView,
    PendingChange,
)
from edgenode.errors import RemoteProtocolError
from edgenode.names import is_name
from edgenode.net.converter import Converter, each, enum, judged, message
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.text_wire import line_from_wire
from edgenode.net.wire import LEADERSHIP, LINE, NAME, NAME_OR_NONE, PLAN

_MOST_COUNTED = 1 << 53  # exact in JSON, and the sum of 1,000 nodes fits SQLite
_MOST_NAMES = 1024
_LONGEST_TEXT = 1000
_COUNTS = ("round", "rounds", *COUNTERS, "peak_memory_bytes", "sketch_round", "alarms")
_FIGURES = ("u", "round_s", "waiting_s", "save_error_s", "joules_per_round")


def _count(name: str) -> Converter[int, int]:
    def judge(count: int) -> int:
        if count > _MOST_COUNTED:
            raise RemoteProtocolError(f"malformed report: {name} {count}, at most {_MOST_COUNTED}")
        return count

    return judged(judge)


def _figure(name: str) -> Converter[float, float]:
    def judge(figure: float) -> float:
        if not 0 <= figure < math.inf:
            raise RemoteProtocolError(f"malformed report: {name} {figure}, expected 0 or more and finite")
        return figure

    return judged(judge)


def _blocked_s(seconds: float) -> float:
    if not 0 <= seconds < math.inf:
        raise RemoteProtocolError(f"malformed report: a link is blocked for {seconds} s")
    return seconds


def _credible(fault: Fault) -> Fault:
    if not is_name(fault.peer) or fault.kind not in FAULT_KINDS or fault.count > _MOST_COUNTED:
        raise RemoteProtocolError(f"malformed report: {fault.count} faults {fault.kind[:80]!a} of {fault.peer[:80]!a}")
    return fault


def _finite_or_none(score: float | None) -> float | None:
    return score if math.isfinite(score or 0) else None


def _finite(sketch: Iterable[float]) -> tuple[float, ...]:
    """A sketch, or none: the model of a run that diverges overflows."""
    values = tuple(sketch)
    return values if all(map(math.isfinite, values)) else ()


def _pending_to_wire(change: PendingChange) -> operator_pb2.PendingChange:
    queued = operator_pb2.Queued(waits_for=change.waits_for, earliest=change.earliest)
    return operator_pb2.PendingChange(change=change.change, queued=queued)


def _pending_from_wire(wire: operator_pb2.PendingChange) -> PendingChange:
    return PendingChange(wire.change, wire.queued.waits_for, wire.queued.earliest)


_TEXT = judged(lambda text: line_from_wire(text, _LONGEST_TEXT))
_SCORE = judged(_finite_or_none)
BLOCKED_LINK = message(
    BlockedLink,
    control_pb2.BlockedLink,
    receiver=NAME,
    address=LINE,
    reason=judged(lambda reason: line_from_wire(reason) or "unknown"),
    blocked_s=judged(_blocked_s),
    by=NAME_OR_NONE,
)
NODE_STATUS = message(
    NodeStatus,
    control_pb2.Progress,  # its other fields are those of the protocol
    state=enum(NodeState, control_pb2.State, "STATE", unknown=NodeState.UNSPECIFIED),
    loss=_SCORE,
    accuracy=_SCORE,
    waiting_for=each(NAME, _MOST_NAMES),
    power_sensor=_TEXT,
    sketch=Converter(tuple, _finite),
    error=_TEXT,
    faults=each(message(Fault, control_pb2.Fault, _credible), _MOST_NAMES),
    save_error=_TEXT,
    **{name: _count(name) for name in _COUNTS},
    **{name: _figure(name) for name in _FIGURES},
)
CLUSTER_STATUS = message(  # the controller has checked what nodes sent to it
    ClusterStatus,
    operator_pb2.ClusterStatus,
    plan=PLAN.at("records"),
    nodes=each(message(NodeView, operator_pb2.NodeStatus, status=NODE_STATUS.at("progress"))),
    leadership=LEADERSHIP,
    pending=each(Converter(_pending_to_wire, _pending_from_wire)),
    links=each(message(LinkView, operator_pb2.LinkStatus, blocked=BLOCKED_LINK)),
)
