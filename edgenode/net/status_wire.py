"""Statuses <-> protobuf messages, in both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from edgenode.core.names import is_name
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
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.text_wire import line_from_wire, name_from_wire
from edgenode.net.wire import leadership_from_wire, leadership_to_wire, plan_from_wire, records_to_wire

_TO_WIRE = {
    NodeState.UNSPECIFIED: control_pb2.STATE_UNSPECIFIED,
    NodeState.RUNNING: control_pb2.STATE_RUNNING,
    NodeState.PAUSED: control_pb2.STATE_PAUSED,
    NodeState.DONE: control_pb2.STATE_DONE,
    NodeState.STOPPED: control_pb2.STATE_STOPPED,
    NodeState.FAILED: control_pb2.STATE_FAILED,
}
_FROM_WIRE = {wire: state for state, wire in _TO_WIRE.items()}
_MOST_COUNTED = 1 << 53  # exact in JSON, and the sum of 1,000 nodes fits SQLite
_MOST_NAMES = 1024
_LONGEST_TEXT = 1000
# the fields of a NodeStatus that have the same name on the wire, by what is checked of them
_COUNTS = ("round", "rounds", *COUNTERS, "peak_memory_bytes", "sketch_round", "alarms")
_FIGURES = ("u", "round_s", "waiting_s", "save_error_s")  # finite, and 0 or more
_SCORES = ("loss", "accuracy")  # None if unknown, or not finite
_LINES = ("power_sensor", "error", "save_error")
# those of a ClusterStatus: the controller has checked what nodes sent to it
_OF_CLUSTER = (
    "cluster", "missing", "rounds_per_epoch", "unix_time_s", "paused", "consensus_round", "page", "reached",
    "departed_payload_bytes", "departed_dense_bytes", "requested", "difference",
)  # fmt: skip
_OF_CLUSTER_IF_KNOWN = ("consensus_distance", "time_left_s")
_OF_VIEW = ("node", "address", "connected", "last_seen_s", "holds_up_s")


def _values(source: object, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _known(wire: Message, names: Iterable[str]) -> dict[str, Any]:
    """The values of fields that are None where they are absent."""
    return {name: getattr(wire, name) if wire.HasField(name) else None for name in names}


def node_status_to_wire(status: NodeStatus) -> control_pb2.Progress:
    """A node's report, without the fields of the protocol."""
    return control_pb2.Progress(
        state=_TO_WIRE[status.state],
        waiting_for=status.waiting_for,
        joules_per_round=status.joules_per_round,
        sketch=status.sketch,
        faults=[control_pb2.Fault(**_values(fault, ("peer", "kind", "count"))) for fault in status.faults],
        **_values(status, (*_COUNTS, *_FIGURES, *_SCORES, *_LINES)),
    )


def node_status_from_wire(wire: control_pb2.Progress) -> NodeStatus:
    """A node's report from outside. A state that this version does not know is UNSPECIFIED.

    Raises:
        RemoteProtocolError: a count is too large, or a figure is not finite or negative.
    """
    _check(wire)
    texts: dict[str, Any] = {name: line_from_wire(getattr(wire, name), _LONGEST_TEXT) for name in _LINES}
    scores = _known(wire, _SCORES)
    finite: dict[str, Any] = {n: score if math.isfinite(score or 0) else None for n, score in scores.items()}
    return NodeStatus(
        state=_FROM_WIRE.get(wire.state, NodeState.UNSPECIFIED),
        waiting_for=tuple(map(name_from_wire, wire.waiting_for[:_MOST_NAMES])),
        sketch=_finite(wire.sketch),
        faults=tuple(Fault(f.peer, f.kind, f.count) for f in wire.faults[:_MOST_NAMES]),
        **_values(wire, (*_COUNTS, *_FIGURES)),
        joules_per_round=wire.joules_per_round if wire.HasField("joules_per_round") else None,
        **finite,
        **texts,
    )


def blocked_to_wire(link: BlockedLink) -> control_pb2.BlockedLink:
    """A link that its sender cannot use."""
    return control_pb2.BlockedLink(**asdict(link))


def blocked_from_wire(wire: control_pb2.BlockedLink) -> BlockedLink:
    """A link that its sender cannot use, from outside.

    Raises:
        RemoteProtocolError: a name is not one, or the time is not finite or negative.
    """
    if not 0 <= wire.blocked_s < math.inf:
        raise RemoteProtocolError(f"malformed report: a link is blocked for {wire.blocked_s} s")
    return BlockedLink(
        receiver=name_from_wire(wire.receiver),
        incarnation=wire.incarnation,
        address=line_from_wire(wire.address),
        reason=line_from_wire(wire.reason) or "unknown",
        blocked_s=wire.blocked_s,
        by=name_from_wire(wire.by) if wire.by else "",
    )


def _check(wire: control_pb2.Progress) -> None:
    for name in _COUNTS:
        if getattr(wire, name) > _MOST_COUNTED:
            raise RemoteProtocolError(f"malformed report: {name} {getattr(wire, name)}, at most {_MOST_COUNTED}")
    for fault in wire.faults[:_MOST_NAMES]:
        if not is_name(fault.peer) or fault.kind not in FAULT_KINDS or fault.count > _MOST_COUNTED:
            raise RemoteProtocolError(
                f"malformed report: {fault.count} faults {fault.kind[:80]!a} of {fault.peer[:80]!a}"
            )
    for name in (*_FIGURES, "joules_per_round"):
        if not 0 <= getattr(wire, name) < math.inf:
            raise RemoteProtocolError(f"malformed report: {name} {getattr(wire, name)}, expected 0 or more and finite")


def _finite(sketch: Iterable[float]) -> tuple[float, ...]:
    """A sketch, or none: the model of a run that diverges overflows."""
    values = tuple(sketch)
    return values if all(map(math.isfinite, values)) else ()


def cluster_status_to_wire(status: ClusterStatus) -> operator_pb2.ClusterStatus:
    """A controller's report."""
    return operator_pb2.ClusterStatus(
        records=records_to_wire(status.plan.records if status.plan else ()),
        nodes=[_view_to_wire(node) for node in status.nodes],
        leadership=leadership_to_wire(status.leadership),
        evicting=status.evicting,
        awaited=status.awaited,
        pending=[
            operator_pb2.PendingChange(
                change=p.change, queued=operator_pb2.Queued(waits_for=p.waits_for, earliest=p.earliest)
            )
            for p in status.pending
        ],
        links=[
            operator_pb2.LinkStatus(sender=v.sender, blocked=blocked_to_wire(v.blocked), left_out=v.left_out)
            for v in status.links
        ],
        **_values(status, (*_OF_CLUSTER, *_OF_CLUSTER_IF_KNOWN)),
    )


def cluster_status_from_wire(wire: operator_pb2.ClusterStatus) -> ClusterStatus:
    """A controller's report from outside.

    Raises:
        RemoteProtocolError: its records are not a plan.
    """
    return ClusterStatus(
        plan=plan_from_wire(wire.records),
        nodes=tuple(_view_from_wire(node) for node in wire.nodes),
        leadership=leadership_from_wire(wire.leadership),
        evicting=tuple(wire.evicting),
        awaited=tuple(wire.awaited),
        pending=tuple(PendingChange(p.change, p.queued.waits_for, p.queued.earliest) for p in wire.pending),
        links=tuple(LinkView(v.sender, blocked_from_wire(v.blocked), v.left_out) for v in wire.links),
        **_values(wire, _OF_CLUSTER),
        **_known(wire, _OF_CLUSTER_IF_KNOWN),
    )


def _view_to_wire(view: NodeView) -> operator_pb2.NodeStatus:
    progress = node_status_to_wire(view.status)
    return operator_pb2.NodeStatus(progress=progress, holds_up=view.holds_up, **_values(view, _OF_VIEW))


def _view_from_wire(wire: operator_pb2.NodeStatus) -> NodeView:
    status = node_status_from_wire(wire.progress)
    return NodeView(status=status, holds_up=tuple(wire.holds_up), **_values(wire, _OF_VIEW))
