"""A cluster's status as plain values: what scripts get as JSON, what the page shows, and what the terminal draws."""

from __future__ import annotations

import json
from typing import Any

from edgenode.core.protocol.plan import Plan
from edgenode.net.proto import control_pb2, operator_pb2
from edgenode.net.wire import plan_from_wire


def cluster_view(status: operator_pb2.ClusterStatus) -> dict[str, Any]:
    """A status for scripts and pages. Keys are only ever added."""
    plan, t = plan_from_wire(status.records), current_round(status)
    return {
        "cluster": status.cluster,
        "controller": status.leadership.address,
        "term": status.leadership.term,
        "missing": status.missing,
        "page": status.page,
        "paused": status.paused,
        "evicting": list(status.evicting),
        "record": json.loads(status.records[-1]) if status.records else None,
        "round": t,
        "rounds": max((n.progress.rounds for n in status.nodes), default=0),
        "graph": graph_view(plan, t) if plan else None,
        "next": _coming(plan, t) if plan else None,
        "consensus_distance": status.consensus_distance if status.HasField("consensus_distance") else None,
        "consensus_round": status.consensus_round,
        "nodes": [node_view(node) for node in status.nodes],
    }


def graph_view(plan: Plan, t: int) -> dict[str, Any]:
    """The graph of a round: its name, and its edges as [sender, receiver]."""
    name = plan.at(t).schedule.spec(t).name
    return {"name": name, "edges": [list(edge) for edge in sorted(plan.graph(t).edges)]}


def next_switch(plan: Plan, t: int) -> dict[str, Any] | None:
    """The next switch: of the record in force, or to one that is not in force yet."""
    switches = [switch] if (switch := plan.at(t).schedule.next_switch(t)) is not None else []
    switches += [record.start for record in plan.records if record.start > t]
    if not switches:
        return None
    at = min(switches)
    return {"round": at, "graph": plan.at(at).schedule.spec(at).name}


def _coming(plan: Plan, t: int) -> dict[str, Any] | None:
    switch = next_switch(plan, t)
    return {**switch, "edges": graph_view(plan, switch["round"])["edges"]} if switch else None


def current_round(status: operator_pb2.ClusterStatus) -> int:
    """The round the cluster is in: that of its slowest node, of those that have reported any."""
    return min((n.progress.round for n in status.nodes if n.progress.round), default=0)


def state_name(state: control_pb2.State) -> str:
    """A state in a word: running."""
    name: str = control_pb2.State.Name(state)
    return name.removeprefix("STATE_").lower()


def size(count: int) -> str:
    """Bytes for people, in powers of ten as data plans count them."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(amount, 1) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def node_view(node: operator_pb2.NodeStatus) -> dict[str, Any]:
    """One node of it."""
    progress = node.progress
    return {
        "node": node.node,
        "address": node.address,
        "connected": node.connected,
        "last_seen_s": round(node.last_seen_s, 3),
        "state": state_name(progress.state),
        "round": progress.round,
        "rounds": progress.rounds,
        "round_s": round(progress.round_s, 4),
        "loss": progress.loss if progress.HasField("loss") else None,
        "accuracy": progress.accuracy if progress.HasField("accuracy") else None,
        "u": progress.u,
        "messages": progress.messages,
        "payload_bytes": progress.payload_bytes,
        "gossip_bytes": progress.gossip_bytes,
        "received_bytes": progress.received_bytes,
        "wire_bytes": progress.wire_bytes,
        "dense_bytes": progress.dense_bytes,
        "waiting_for": list(progress.waiting_for),
        "waiting_s": round(progress.waiting_s, 3),
        "holds_up": list(node.holds_up),
        "holds_up_s": round(node.holds_up_s, 3),
        "peak_memory_bytes": progress.peak_memory_bytes,
        "joules_per_round": progress.joules_per_round if progress.HasField("joules_per_round") else None,
        "power_sensor": progress.power_sensor,
        "error": progress.error,
    }
