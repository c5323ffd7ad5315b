"""Statuses <-> protobuf messages, in both directions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgenode.core.names import is_name
from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import (
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
_COUNTS = (
    "round", "rounds", "messages", "payload_bytes", "gossip_bytes", "received_bytes", "wire_bytes", "dense_bytes",
    "peak_memory_bytes", "sketch_round", "alarms",
)  # fmt: skip
_FIGURES = ("u", "round_s", "waiting_s", "joules_per_round", "save_error_s")


def node_status_to_wire(status: NodeStatus) -> control_pb2.Progress:
    """A node's report, without the fields of the protocol."""
    return control_pb2.Progress(
        state=_TO_WIRE[status.state],
        round=status.round,
        rounds=status.rounds,
        loss=status.loss,
        accuracy=status.accuracy,
        u=status.u,
        messages=status.messages,
        payload_bytes=status.payload_bytes,
        gossip_bytes=status.gossip_bytes,
        received_bytes=status.received_bytes,
        wire_bytes=status.wire_bytes,
        dense_bytes=status.dense_bytes,
        round_s=status.round_s,
        waiting_for=status.waiting_for,
        waiting_s=status.waiting_s,
        peak_memory_bytes=status.peak_memory_bytes,
        joules_per_round=status.joules_per_round,
        power_sensor=status.power_sensor,
        sketch_round=status.sketch_round,
        sketch=status.sketch,
        error=status.error,
        faults=[control_pb2.Fault(peer=f.peer, kind=f.kind, count=f.count) for f in status.faults],
        alarms=status.alarms,
        save_error=status.save_error,
        save_error_s=status.save_error_s,
    )


def node_status_from_wire(wire: control_pb2.Progress) -> NodeStatus:
    """A node's report from outside. A state that this version does not know is UNSPECIFIED.

    Raises:
        RemoteProtocolError: a count is too large, or a figure is not finite or negative.
    """
    _check(wire)
    return NodeStatus(
        state=_FROM_WIRE.get(wire.state, NodeState.UNSPECIFIED),
        round=wire.round,
        rounds=wire.rounds,
        loss=wire.loss if wire.HasField("loss") and math.isfinite(wire.loss) else None,
        accuracy=wire.accuracy if wire.HasField("accuracy") and math.isfinite(wire.accuracy) else None,
        u=wire.u,
        messages=wire.messages,
        payload_bytes=wire.payload_bytes,
        gossip_bytes=wire.gossip_bytes,
        received_bytes=wire.received_bytes,
        wire_bytes=wire.wire_bytes,
        dense_bytes=wire.dense_bytes,
        round_s=wire.round_s,
        waiting_for=tuple(map(name_from_wire, wire.waiting_for[:_MOST_NAMES])),
        waiting_s=wire.waiting_s,
        peak_memory_bytes=wire.peak_memory_bytes,
        joules_per_round=wire.joules_per_round if wire.HasField("joules_per_round") else None,
        power_sensor=line_from_wire(wire.power_sensor, _LONGEST_TEXT),
        sketch_round=wire.sketch_round,
        sketch=_finite(wire.sketch),
        error=line_from_wire(wire.error, _LONGEST_TEXT),
        faults=tuple(Fault(f.peer, f.kind, f.count) for f in wire.faults[:_MOST_NAMES]),
        alarms=wire.alarms,
        save_error=line_from_wire(wire.save_error, _LONGEST_TEXT),
        save_error_s=wire.save_error_s,
    )


def blocked_to_wire(link: BlockedLink) -> control_pb2.BlockedLink:
    """A link that its sender cannot use."""
    return control_pb2.BlockedLink(
        receiver=link.receiver,
        incarnation=link.incarnation,
        address=link.address,
        reason=link.reason,
        blocked_s=link.blocked_s,
        by=link.by,
    )


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
    for name in _FIGURES:
        if not 0 <= getattr(wire, name) < math.inf:
            raise RemoteProtocolError(f"malformed report: {name} {getattr(wire, name)}, expected 0 or more and finite")


def _finite(sketch: Iterable[float]) -> tuple[float, ...]:
    """A sketch, or none: the model of a run that diverges overflows."""
    values = tuple(sketch)
    return values if all(map(math.isfinite, values)) else ()


def cluster_status_to_wire(status: ClusterStatus) -> operator_pb2.ClusterStatus:
    """A controller's report."""
    return operator_pb2.ClusterStatus(
        cluster=status.cluster,
        missing=status.missing,
        records=records_to_wire(status.plan.records if status.plan else ()),
        nodes=[_view_to_wire(node) for node in status.nodes],
        rounds_per_epoch=status.rounds_per_epoch,
        leadership=leadership_to_wire(status.leadership),
        unix_time_s=status.unix_time_s,
        paused=status.paused,
        evicting=status.evicting,
        awaited=status.awaited,
        consensus_distance=status.consensus_distance,
        consensus_round=status.consensus_round,
        page=status.page,
        reached=status.reached,
        departed_payload_bytes=status.departed_payload_bytes,
        departed_dense_bytes=status.departed_dense_bytes,
        time_left_s=status.time_left_s,
        requested=status.requested,
        difference=status.difference,
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
    )


def cluster_status_from_wire(wire: operator_pb2.ClusterStatus) -> ClusterStatus:
    """A controller's report from outside.

    Raises:
        RemoteProtocolError: its records are not a plan.
    """
    return ClusterStatus(
        cluster=wire.cluster,
        missing=wire.missing,
        plan=plan_from_wire(wire.records),
        nodes=tuple(_view_from_wire(node) for node in wire.nodes),
        rounds_per_epoch=wire.rounds_per_epoch,
        leadership=leadership_from_wire(wire.leadership),
        unix_time_s=wire.unix_time_s,
        paused=wire.paused,
        evicting=tuple(wire.evicting),
        awaited=tuple(wire.awaited),
        consensus_distance=wire.consensus_distance if wire.HasField("consensus_distance") else None,
        consensus_round=wire.consensus_round,
        page=wire.page,
        reached=wire.reached,
        departed_payload_bytes=wire.departed_payload_bytes,
        departed_dense_bytes=wire.departed_dense_bytes,
        time_left_s=wire.time_left_s if wire.HasField("time_left_s") else None,
        requested=wire.requested,
        difference=wire.difference,
        pending=tuple(PendingChange(p.change, p.queued.waits_for, p.queued.earliest) for p in wire.pending),
        links=tuple(LinkView(v.sender, blocked_from_wire(v.blocked), v.left_out) for v in wire.links),
    )


def _view_to_wire(view: NodeView) -> operator_pb2.NodeStatus:
    return operator_pb2.NodeStatus(
        node=view.node,
        address=view.address,
        connected=view.connected,
        last_seen_s=view.last_seen_s,
        progress=node_status_to_wire(view.status),
        holds_up=view.holds_up,
        holds_up_s=view.holds_up_s,
    )


def _view_from_wire(wire: operator_pb2.NodeStatus) -> NodeView:
    return NodeView(
        node=wire.node,
        address=wire.address,
        connected=wire.connected,
        last_seen_s=wire.last_seen_s,
        status=node_status_from_wire(wire.progress),
        holds_up=tuple(wire.holds_up),
        holds_up_s=wire.holds_up_s,
    )
