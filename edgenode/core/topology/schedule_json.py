"""Schedules as JSON values: the form in which records and the controller's state hold them. Keys never change."""

from __future__ import annotations

from typing import Any

from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.weights import OUT_DEGREE
from edgenode.names import RULE, is_name

MOST = 1 << 48  # of rounds, samples, and whatever else a record counts


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """A schedule as JSON values."""
    return {
        "graphs": graphs_json(schedule.graphs),
        "every": schedule.every,
        "origin": schedule.origin,
        "last": None if schedule.last is None else schedule.last.plain(),
        "last_from": schedule.last_from,
        **({"without": [list(link) for link in schedule.without]} if schedule.without else {}),
        **({"exchange": schedule.exchange} if schedule.exchange else {}),
    }


def schedule_from_json(value: dict[str, Any]) -> Schedule:
    """The inverse. Raises ValueError, KeyError, TypeError or GraphError if the value is not a schedule."""
    return Schedule(
        graphs=graphs_from_json(value["graphs"]),
        every=whole(value["every"]),
        origin=whole(value["origin"]),
        last=None if value["last"] is None else _spec_from_json(value["last"]),
        last_from=whole(value["last_from"]),
        without=tuple((name(sender), name(receiver)) for sender, receiver in value.get("without", ())),
        exchange=whole(value.get("exchange", 0)),
    )


def graphs_json(graphs: tuple[GraphSpec, ...]) -> list[Any]:
    """Each graph as [name, edges], with null for the edges of a preset, and weights if they are not the default."""
    return [spec.plain() for spec in graphs]


def graphs_from_json(value: list[Any]) -> tuple[GraphSpec, ...]:
    """The inverse, with the same errors as `schedule_from_json`."""
    return tuple(_spec_from_json(spec) for spec in value)


def _spec_from_json(value: list[Any]) -> GraphSpec:
    graph, edges, *weights = value
    if len(weights) > 1:
        raise ValueError(f"a graph has a name, edges and weights, and not {len(value)} parts")
    named = None if edges is None else tuple((name(a), name(b)) for a, b in edges)
    if weights and isinstance(weights[0], list):
        return GraphSpec(text(graph), named, given=tuple(_number(weight) for weight in weights[0]))
    return GraphSpec(text(graph), named, text(weights[0]) if weights else OUT_DEGREE)


def _number(value: object) -> float:
    """The value if it is a number that is not whole. Raises TypeError."""
    if type(value) is not float:
        raise TypeError(f"expected a weight, got {value!r}")
    return value


def text(value: object) -> str:
    """The value if it is text. Raises TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


def name(value: object) -> str:
    """The value if it is the name of a node or a cluster. Raises TypeError or ValueError."""
    if not is_name(text(value)):
        raise ValueError(f"{ascii(value)[:80]} is not a name: it must be {RULE}")
    return text(value)


def whole(value: object, least: int = 0) -> int:
    """The value if it is a whole number in the range of counts. Raises TypeError or ValueError."""
    if type(value) is not int:
        raise TypeError(f"expected a whole number, got {value!r}")
    if not least <= value <= MOST:
        raise ValueError(f"expected a whole number from {least} to {MOST}")
    return value
