"""Statuses <-> protobuf messages, in both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

from edgenode.core.protocol.controller.links import MOST_LINKS
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
    OpenLink,
    PendingChange,
    Relayed,
    RelayView,
    Way,
)
from edgenode.errors import RemoteProtocolError
from edgenode.evaluation import MOST_METRICS, Metric
from edgenode.names import is_name
from edgenode.net.converter import Converter, each, enum, judged, message
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.text_wire import line_from_wire
from edgenode.net.wire import LEADERSHIP, LINE, NAME, NAME_OR_NONE, PLAN

MOST_COUNTED = 1 << 53
"""The largest count of a node: it is exact in JSON, and the sum of 1,000 nodes fits SQLite."""
_LARGEST_FIGURE = 1e15
_LONGEST_SKETCH = 64
_MOST_NAMES = 1024
_LONGEST_TEXT = 1000
_COUNTS = ("round", "rounds", *COUNTERS, "peak_memory_bytes", "sketch_round", "alarms")
_FIGURES = ("u", "round_s", "waiting_s", "save_error_s", "joules_per_round")


def _count(name: str) -> Converter[int, int]:
    def judge(count: int) -> int:
        if count > MOST_COUNTED:
            raise RemoteProtocolError(f"malformed report: {name} {count}, at most {MOST_COUNTED}")
        return count

    return judged(judge)


def _figure(name: str) -> Converter[float, float]:
    def judge(figure: float) -> float:
        if not 0 <= figure <= _LARGEST_FIGURE:
            raise RemoteProtocolError(f"malformed report: {name} {figure}, expected 0 to {_LARGEST_FIGURE:g}")
        return figure

    return judged(judge)


def _blocked_s(seconds: float) -> float:
    if not 0 <= seconds <= _LARGEST_FIGURE:
        raise RemoteProtocolError(f"malformed report: a link is blocked for {seconds} s")
    return seconds


def _credible(fault: Fault) -> Fault:
    if not is_name(fault.peer) or fault.kind not in FAULT_KINDS or fault.count > MOST_COUNTED:
        raise RemoteProtocolError(f"malformed report: {fault.count} faults {fault.kind[:80]!a} of {fault.peer[:80]!a}")
    return fault


def _measured(metric: Metric) -> Metric:
    if not (is_name(metric.name) and math.isfinite(metric.value)):
        raise RemoteProtocolError(f"malformed report: a metric {metric.name[:80]!a} of {metric.value}")
    return metric


def _measured_or_none(score: float | None) -> float | None:
    """A score. None for one that only a run that diverges can have."""
    return score if score is not None and abs(score) <= _LARGEST_FIGURE else None


def _finite(sketch: Iterable[float]) -> tuple[float, ...]:
    """A sketch, or none: the model of a run that diverges overflows. One that is too long is none as well."""
    values = tuple(islice(sketch, _LONGEST_SKETCH + 1))
    return values if len(values) <= _LONGEST_SKETCH and all(map(math.isfinite, values)) else ()


def _pending_to_wire(change: PendingChange) -> operator_pb2.PendingChange:
    queued = operator_pb2.Queued(waits_for=change.waits_for, earliest=change.earliest)
    return operator_pb2.PendingChange(change=change.change, queued=queued)


def _pending_from_wire(wire: operator_pb2.PendingChange) -> PendingChange:
    return PendingChange(wire.change, wire.queued.waits_for, wire.queued.earliest)


_TEXT = judged(lambda text: line_from_wire(text, _LONGEST_TEXT))
_STATE = enum(NodeState, control_pb2.State, "STATE", unknown=NodeState.UNSPECIFIED)
_SCORE = judged(_measured_or_none)
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
    state=_STATE,
    loss=_SCORE,
    accuracy=_SCORE,
    metrics=each(message(Metric, control_pb2.Metric, _measured), MOST_METRICS),
    waiting_for=each(NAME, _MOST_NAMES),
    power_sensor=_TEXT,
    sketch=Converter(tuple, _finite),
    error=_TEXT,
    faults=each(message(Fault, control_pb2.Fault, _credible), _MOST_NAMES),
    save_error=_TEXT,
    ways=each(message(Way, control_pb2.Way, receiver=NAME, by=NAME), _MOST_NAMES),
    open_links=each(
        message(
            OpenLink,
            control_pb2.OpenLink,
            receiver=NAME,
            round_trip_s=_figure("round_trip_s"),
            bytes_per_s=_figure("bytes_per_s"),
        ),
        MOST_LINKS,
    ),
    **{name: _count(name) for name in _COUNTS},
    **{name: _figure(name) for name in _FIGURES},
)


def _shown(wire: control_pb2.Progress) -> NodeStatus:
    """The status of a node, for people. Of one that cannot be, its state: the others have to be shown all the same."""
    try:
        return NODE_STATUS.from_wire(wire)
    except RemoteProtocolError as exc:
        return NodeStatus(state=_STATE.from_wire(wire.state), error=str(exc))


CLUSTER_STATUS = message(
    ClusterStatus,
    operator_pb2.ClusterStatus,
    plan=PLAN.at("records"),
    nodes=each(message(NodeView, operator_pb2.NodeStatus, status=Converter(NODE_STATUS.to_wire, _shown, "progress"))),
    leadership=LEADERSHIP,
    pending=each(Converter(_pending_to_wire, _pending_from_wire)),
    links=each(message(LinkView, operator_pb2.LinkStatus, blocked=BLOCKED_LINK)),
    relayed=each(message(Relayed, operator_pb2.Relayed)),
    relay_processes=each(message(RelayView, operator_pb2.RelayStatus)),
)
