"""A cluster's status as JSON values, for scripts and for the page, and the words that every display shares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import nlargest
from typing import Any
from urllib.parse import urlsplit

from edgenode.addresses import join_address, split_address
from edgenode.core.protocol.controller.links import describe
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.status import COUNTERS, ClusterStatus, Fault, LinkView, NodeState, NodeView, OpenLink
from edgenode.core.wording import counted
from edgenode.evaluation import by_name
from edgenode.net.interfaces import is_loopback
from edgenode.security.subject import CONTROLLER

_MOST_PEERS = 8  # with a line each
_MOST_LINKS = 1000


def cluster_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the JSON of `edgenode status`. New versions add keys and remove none."""
    plan, t = status.plan, status.round
    return {
        "cluster": status.cluster,
        "controller": status.leadership.address,
        "term": status.leadership.term,
        "missing": status.missing,
        "page": status.page,
        "paused": status.paused,
        "evicting": list(status.evicting),
        "record": json.loads(plan.latest.to_json()) if plan else None,
        "round": t,
        "rounds": max((node.status.rounds for node in status.nodes), default=0),
        "time_left_s": None if status.time_left_s is None else round(status.time_left_s, 1),
        "payload_bytes": status.payload_bytes,
        "dense_bytes": status.dense_bytes,
        "graph": graph_json(plan, t) if plan else None,
        "next": _next_json(plan, t) if plan else None,
        **requests_json(status),
        "open_links": open_links_json(status),
        "relayed": [asdict(relayed) for relayed in status.relayed],
        "consensus_distance": status.consensus_distance,
        "consensus_round": status.consensus_round,
        "faults": [
            {"node": by, "peer": fault.peer, "kind": fault.kind, "count": fault.count}
            for by, fault in faults_of(status.nodes)
        ],
        "nodes": [node_json(node) for node in status.nodes],
    }


def faults_of(nodes: Iterable[NodeView]) -> Iterator[tuple[str, Fault]]:
    """Return the protocol violations, and the process that rejected them: a node, or the controller."""
    for node in nodes:
        for fault in node.status.faults:
            yield CONTROLLER.name if fault.peer == node.node else node.node, fault


def faults_lines(nodes: Iterable[NodeView]) -> list[str]:
    """Return one line for each peer with protocol violations, those with most first. A member that lies may count any,
    so the line names who counted.
    """
    counts, by = dict[str, Counter[str]](), dict[str, set[str]]()
    for reporter, fault in faults_of(nodes):
        counts.setdefault(fault.peer, Counter())[fault.kind] += fault.count
        by.setdefault(fault.peer, set()).add(reporter)
    ranked = sorted(counts.items(), key=lambda item: -item[1].total())
    lines = [
        f"refused from {peer}: {', '.join(f'{count} × {kind}' for kind, count in sorted(kinds.items()))}"
        f" by {_some(by[peer])}"
        for peer, kinds in ranked[:_MOST_PEERS]
    ]
    return lines + ([f"and from {len(ranked) - _MOST_PEERS} more"] if len(ranked) > _MOST_PEERS else [])


def _some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _MOST_PEERS} more" if len(ordered) > _MOST_PEERS else ""
    return ", ".join(ordered[:_MOST_PEERS]) + more


def saving_lines(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """The nodes that run and cannot save, since when and why, one line each. ``nodes``: as `node_json`."""
    failing = [node for node in nodes if node["save_error"] and not NodeState(node["state"]).ended]
    lines = [
        f"{node['node']} cannot save for {duration(node['save_error_s'])}: {node['save_error']}"
        for node in failing[:_MOST_PEERS]
    ]
    return lines + ([f"and {len(failing) - _MOST_PEERS} more"] if len(failing) > _MOST_PEERS else [])


def requests_json(status: ClusterStatus) -> dict[str, Any]:
    """The graphs that were requested last, what is used in their place and why, and the changes still to come."""
    return {
        "requested": status.requested or None,
        "difference": status.difference or None,
        "pending": [
            {"change": pending.change, "waits_for": pending.waits_for, "earliest_round": pending.earliest}
            for pending in status.pending
        ],
        "links": [link_json(view) for view in status.links],
        "ways": ways_json(status),
        "relays": relays_json(status),
    }


def ways_json(status: ClusterStatus) -> list[dict[str, Any]]:
    """The edges that are not dialled directly, by their way, and the same facts in words.

    An edge is reversed if its receiver has opened the connection. Otherwise a relay connects both ends.
    """
    groups = dict[str, list[list[str]]]()
    for view in status.nodes:
        for way in view.status.ways:
            groups.setdefault("" if way.by == view.node else way.by, []).append([view.node, way.receiver])
    carried = _carried(status)
    found = []
    for relay, edges in sorted(groups.items()):
        shown = ", ".join(f"{sender} → {receiver}" for sender, receiver in edges[:_MOST_PEERS])
        more = f" and {len(edges) - _MOST_PEERS} more" if len(edges) > _MOST_PEERS else ""
        so_far = f" ({size(carried[relay])} so far)" if carried[relay] else ""
        how = f"Relayed by {relay}{so_far}" if relay else "Opened by the receiver"
        found.append(
            {
                "way": "relayed" if relay else "reversed",
                "relay": relay or None,
                "edges": edges,
                "text": f"{how}: {shown}{more}",
            }
        )
    return found


def _carried(status: ClusterStatus) -> Counter[str]:
    """The bytes that each relay has carried."""
    carried = Counter[str]()
    for one in status.relayed:
        carried[one.relay or CONTROLLER.name] += one.bytes
    return carried


def relays_json(status: ClusterStatus) -> list[dict[str, Any]]:
    """The relays besides the controller, and the same facts in words."""
    carried, connections = _carried(status), Counter[str]()
    for one in status.relayed:
        connections[one.relay] += one.connections
    found = []
    for relay in status.relay_processes:
        state = "connected" if relay.connected else f"not connected for {duration(relay.last_seen_s)}"
        has = f"{counted(connections[relay.name], 'connection')}, {size(carried[relay.name])} so far"
        found.append(
            {
                "relay": relay.name,
                "address": relay.address,
                "connected": relay.connected,
                "last_seen_s": round(relay.last_seen_s, 1),
                "connections": connections[relay.name],
                "bytes": carried[relay.name],
                "text": f"Relay {relay.name} at {relay.address}: {state}, {has}",
            }
        )
    return found


def open_links_json(status: ClusterStatus) -> list[dict[str, Any]]:
    """The open connections between nodes, those with the longest round trips first: by which way, and the figures."""
    ways = {(view.node, way.receiver): way.by for view in status.nodes for way in view.status.ways}
    ways |= {(view.sender, view.blocked.receiver): view.blocked.by for view in status.links}
    found = [
        (view.node, link) for view in status.nodes if not view.status.state.ended for link in view.status.open_links
    ]
    found = nlargest(_MOST_LINKS, found, key=lambda one: one[1].round_trip_s)
    return [_open_link_json(sender, link, ways.get((sender, link.receiver), "")) for sender, link in found]


def _open_link_json(sender: str, link: OpenLink, by: str) -> dict[str, Any]:
    relay = by if by != sender else ""
    way = f"relayed by {relay}" if relay else "reversed" if by else "direct"
    trip, rate = link.round_trip_s * 1e3, size(round(link.bytes_per_s))
    return {
        "sender": sender,
        "receiver": link.receiver,
        "way": way.split(maxsplit=1)[0],
        "relay": relay or None,
        "round_trip_s": round(link.round_trip_s, 5),
        "bytes_per_s": round(link.bytes_per_s),
        "text": f"{sender} → {link.receiver}: {way}, {trip:.{1 if trip < 10 else 0}f} ms there and back, {rate}/s",
    }


def open_links_lines(links: Sequence[Mapping[str, Any]], most: int = _MOST_PEERS) -> list[str]:
    """The first of ``open_links_json`` in words, one line each."""
    more = f"and {len(links) - most} more: edgenode topology show --json" if len(links) > most else ""
    return [link["text"] for link in links[:most]] + [more] * bool(more)


def link_json(view: LinkView) -> dict[str, Any]:
    """A link that its sender cannot use, and the same facts in words."""
    link = view.blocked
    return {
        "sender": view.sender,
        "receiver": link.receiver,
        "address": link.address,
        "reason": link.reason,
        "blocked_s": round(link.blocked_s, 1),
        "relay": link.by or None,
        "left_out": view.left_out,
        "text": describe(view.sender, link) + (". The graphs do without this link" if view.left_out else ""),
    }


def requests_lines(view: Mapping[str, Any]) -> list[str]:
    """``requests_json`` in words, one line each. None if the requested graphs are used, nothing is
    pending, all links work and are direct, and there are no relays.
    """
    lines = [f"Requested: graph {view['requested']}. {sentence(view['difference'])}"] if view["difference"] else []
    lines += [f"{link['text']}." for link in (*view["links"], *view["ways"], *view["relays"])]
    return lines + [f"Pending: {pending['change']}, after {pending['waits_for']}." for pending in view["pending"]]


def sentence(text: str) -> str:
    """A text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def node_json(node: NodeView) -> dict[str, Any]:
    """Return the JSON of one node in `edgenode nodes`."""
    status = node.status
    return {
        "node": node.node,
        "address": node.address,
        "connected": node.connected,
        "last_seen_s": round(node.last_seen_s, 3),
        "state": status.state.value,
        "round": status.round,
        "rounds": status.rounds,
        "round_s": round(status.round_s, 4),
        "loss": status.loss,
        "accuracy": status.accuracy,
        "metrics": by_name(status.metrics),
        "u": status.u,
        **{name: getattr(status, name) for name in COUNTERS},
        "waiting_for": list(status.waiting_for),
        "waiting_s": round(status.waiting_s, 3),
        "holds_up": list(node.holds_up),
        "holds_up_s": round(node.holds_up_s, 3),
        "peak_memory_bytes": status.peak_memory_bytes,
        "joules_per_round": status.joules_per_round,
        "power_sensor": status.power_sensor,
        "error": status.error,
        "save_error": status.save_error,
        "save_error_s": round(status.save_error_s, 3),
        "alarms": status.alarms,
    }


def graph_json(plan: Plan, t: int) -> dict[str, Any]:
    """The graph of a round: its name, and its edges as [sender, receiver]."""
    name = plan.at(t).schedule.spec(t).name
    return {"name": name, "edges": [list(edge) for edge in sorted(plan.graph(t).edges)]}


def next_switch(plan: Plan, t: int) -> dict[str, Any] | None:
    """The next change of graph after a round: by the schedule in force, or by a record that starts later."""
    switches = [switch] if (switch := plan.at(t).schedule.next_switch(t)) is not None else []
    switches += [record.start for record in plan.records if record.start > t]
    if not switches:
        return None
    at = min(switches)
    return {"round": at, "graph": plan.at(at).schedule.spec(at).name}


def _next_json(plan: Plan, t: int) -> dict[str, Any] | None:
    switch = next_switch(plan, t)
    return {**switch, "edges": graph_json(plan, switch["round"])["edges"]} if switch else None


def duration(seconds: float) -> str:
    """A time in words, rounded to two units: 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def page_from_elsewhere(page: str, machine: str) -> str:
    """Return how to open the page from another machine than the controller's ``machine``. "" if its URL is enough."""
    host, port = split_address(urlsplit(page).netloc)
    if not is_loopback(host):
        return ""
    tunnel = f"ssh -L {port}:{join_address(host, port)} {machine}"
    return f"{tunnel}, or start the controller with --http 0.0.0.0:{port}"


def less_than_uncompressed(factor: float) -> str:
    """Compare the sent bytes with the same messages without compression.

    Args:
        factor: uncompressed bytes over the bytes that were sent.
    """
    if 0.95 < factor < 1.05:
        return "as much as uncompressed"
    if factor < 1:
        return f"{1 / factor:.1f} times as much as uncompressed"
    return f"{factor:.{0 if factor >= 10 else 1}f} times less than uncompressed"


def figure(value: float | None, form: str) -> str:
    """A number in a format of Python's, or a dash if it is not known."""
    return "-" if value is None else format(value, form)


def size(count: int) -> str:
    """Bytes in decimal units: 1.5 MB."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if round(amount, 1) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
