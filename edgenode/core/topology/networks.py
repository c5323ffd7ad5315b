"""Presets that send few messages between networks, such as homes: the order of the members decides that.

A preset is defined over positions, and a member's position is free. An operator names the networks by the beginnings
of their members' names: in `a@pi-1+pi-4:pi-2+pi-3`, which is preset `a`, pi-1 and pi-4 share a network, and in
`a@berlin:paris` all that begin with berlin do. Members that no network names share one of their own.

1. The members of a network stand together, or they take turns with those of the others. Of the two orders, the one
   with which fewer edges of the preset's period lead from one network to another counts, and the first one if both have
   as many.
2. A ring then leaves each network once, and strong connectivity allows no less. The rounds of an allreduce with long
   messages stay inside networks, and those with short ones cross.
3. The order depends on the graph's name and the members only. So all nodes derive the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest

from edgenode.errors import GraphError
from edgenode.names import is_name

_AT, _MOST = "@", 256
Networks = tuple[tuple[str, ...], ...]
"""The beginnings of the names of each network's members. The longest one that fits a name counts."""
Period = Sequence[Sequence[tuple[int, int]]]


def preset_of(graph: str) -> str:
    """The name of the preset in the name of a graph."""
    return graph.partition(_AT)[0]


def at_of(graph: str) -> str:
    """The networks in the name of a graph, with "@" before them. Empty without any."""
    return graph[len(preset_of(graph)) :]


def networks_of(graph: str) -> Networks:
    """The networks in the name of a graph. Empty without any.

    Raises:
        GraphError: they are not different beginnings of names, or they are too many.
    """
    if not (at := at_of(graph)):
        return ()
    found = tuple(tuple(network.split("+")) for network in at[1:].split(":"))
    every = [*chain.from_iterable(found)]
    if len(every) > _MOST or len(set(every)) < len(every) or not all(map(is_name, every)):
        raise GraphError(
            f"graph {graph[:200]!r}: after @ come at most {_MOST} different nodes or beginnings of their names, with + "
            "inside a network and : between networks, as in a@pi-1+pi-4:pi-2+pi-3"
        )
    return found


def grouped(members: Sequence[str], networks: Networks) -> list[list[str]]:
    """The members of each network, in the order of the networks. The members of none come last."""
    network_of = {begin: number for number, network in enumerate((*networks, ("",))) for begin in network}
    groups: list[list[str]] = [[] for _ in (*networks, "")]
    for member in members:
        groups[network_of[max(filter(member.startswith, network_of), key=len)]].append(member)
    return [group for group in groups if group]


def ordered(members: tuple[str, ...], networks: Networks, edges: Callable[[int], Period]) -> tuple[str, ...]:
    """The members in the order of their positions in a preset with these edges."""
    groups = grouped(members, networks)
    together = tuple(chain.from_iterable(groups))
    in_turns = tuple(member for turn in zip_longest(*groups) for member in turn if member is not None)
    period = edges(len(members))
    return min(together, in_turns, key=lambda order: crossing(period, order, groups))


def crossing(period: Period, order: Sequence[str], groups: Sequence[Sequence[str]]) -> int:
    """The number of a period's edges that lead from one group to another, if the members have this order."""
    group = {member: number for number, members in enumerate(groups) for member in members}
    return sum(group[order[i]] != group[order[j]] for edges in period for i, j in edges)
