"""The graceful changes of a plan as values: what is requested, what is on offer, and how both are described and stored.

An operator requests a rotation, a stop or more rounds, and a member its departure. A newcomer that has the model is
admitted. A member's key is replaced near the end of its life.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_never

from edgenode.core.protocol.events import UNREQUESTED, ClusterAction, Extend, Reply, Rotate, Send, Stop
from edgenode.core.protocol.orders import LeaveRefused
from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.schedule_json import (
    graphs_from_json,
    graphs_json,
    schedule_from_json,
    schedule_json,
    text,
    whole,
)
from edgenode.errors import GraphError


@dataclass(frozen=True)
class Departure:
    """A member hands over what it has, and leaves."""

    node: str


@dataclass(frozen=True)
class Admission:
    """A newcomer has the model and becomes a member, as long as this process waits under its name."""

    node: str
    process: str


@dataclass(frozen=True)
class Rekeying:
    """A member is known by another key, as long as it is the process that asked for it."""

    node: str
    incarnation: int
    key: str


@dataclass(frozen=True)
class Reroute:
    """The graphs do without the links that do not work at the time of the offer, and take back those that do."""


Requested = Rotate | Stop | Extend
"""The requests of an operator. The next controller of the run must know them."""

Change = Requested | Departure | Admission | Rekeying | Reroute


@dataclass(frozen=True)
class PendingOffer:
    """A record that was offered to one member and is not known to be accepted."""

    record: Record
    node: str
    changes: tuple[Change, ...]


def describe(change: Change) -> str:
    """A change in a few words, for people."""
    match change:
        case Rotate(graphs=graphs, period=period):
            names = "+".join(spec.name for spec in graphs)
            return f"graph {names}" if len(graphs) == 1 else f"graphs {names}, {period} each"
        case Stop():
            return "stop of all nodes"
        case Extend(rounds=rounds):
            return f"training for {rounds} rounds"
        case Departure(node):
            return f"{node} leaves"
        case Admission(node):
            return f"{node} joins"
        case Rekeying(node):
            return f"{node} changes its key"
        case Reroute():
            return "graph without the links that do not work"
    assert_never(change)


def requests_to_json(requested: Schedule | None, queued: tuple[Requested, ...]) -> str:
    """The requests as the next controller needs them: no operator waits for a reply any more."""
    value = {
        "requested": schedule_json(requested) if requested else None,
        "queued": [_queued_json(change) for change in queued],
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def requests_from_json(canonical: str) -> tuple[Schedule | None, tuple[Requested, ...]]:
    """The inverse of `requests_to_json`.

    Raises:
        ValueError: the text is something else.
    """
    try:
        value = json.loads(canonical)
        requested = value["requested"] and schedule_from_json(value["requested"])
        return requested, tuple(_queued_from_json(change) for change in value["queued"])
    except (KeyError, TypeError, AttributeError, RecursionError, GraphError) as exc:
        raise ValueError(f"malformed requests: {exc}") from exc


def _queued_json(change: Requested) -> dict[str, Any]:
    if isinstance(change, Stop):
        return {}
    if isinstance(change, Extend):
        return {"rounds": change.rounds}
    return {"graphs": graphs_json(change.graphs), "every": str(change.period)}


def _queued_from_json(value: dict[str, Any]) -> Requested:
    if not value:
        return Stop(UNREQUESTED)
    if "rounds" in value:
        return Extend(UNREQUESTED, whole(value["rounds"]))
    return Rotate(UNREQUESTED, graphs_from_json(value["graphs"]), Period.parse(text(value["every"])))


def extensions(changes: Iterable[Change]) -> list[int]:
    """The rounds of training that changes request."""
    return [change.rounds for change in changes if isinstance(change, Extend)]


def refused(change: Requested | Departure, error: str) -> list[ClusterAction]:
    """Refuse a change to the one that requested it. The log names a change for which no operator waits."""
    if isinstance(change, Departure):
        return [Send(change.node, LeaveRefused(error))]
    why = f"{describe(change)}: {error}" if change.request_id == UNREQUESTED else error
    return [Reply(change.request_id, None, why)]
