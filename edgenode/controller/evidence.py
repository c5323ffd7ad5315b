"""Who is dead, who is slow, and whom that holds up: pure decisions on what the controller last heard of each node.

Silence alone is no proof, and neither is one node's word: a dead node is silent, is waited for, and stops the others.
A slow node answers; that it holds the others up is a matter of the share of time that they wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log

_FRESH_S = 2.0  # an older report does not tell what its node waits for now
_MEMORY_S = 5.0  # over how long the share of time is taken
_HALF = 0.5
_NOTICED_S = _MEMORY_S * log(2)  # who stops the others for good is noticed after this


@dataclass(frozen=True)
class NodeEvidence:
    """A node's last report, and its age; ``ended`` is one that needs nothing any more, and that nobody needs."""

    silent_s: float
    waiting_for: tuple[str, ...] = ()
    waiting_s: float = 0.0
    ended: bool = False


@dataclass(frozen=True)
class Straggling:
    """How a node holds others up: the share of the last seconds, and for how long that has been more than half."""

    share: float
    straggling_s: float = 0.0


def silent(
    nodes: Mapping[str, NodeEvidence], members: int, limit_s: float, fenced: frozenset[str] = frozenset()
) -> list[str]:
    """Who may be dead: a call is to show it.

    Such a node has said nothing for ``limit_s``, somebody waits for it, and two nodes are stuck: one
    with a bad link cannot make the case alone. In a run of less than four members one has to do.
    ``fenced`` are those whose promise a fence waits for: with it, everybody does.
    """
    stuck = {n for n, h in nodes.items() if h.waiting_for and h.waiting_s >= limit_s / 2 and h.silent_s < limit_s}
    quiet = [n for n, h in nodes.items() if h.silent_s >= limit_s]
    enough = len(stuck) >= (2 if members >= 4 else 1)
    waited_for = {peer for other in stuck for peer in nodes[other].waiting_for}
    named = {n for n in quiet if n in waited_for and (enough or nodes[n].ended)}
    return [n for n in quiet if n in named or n in fenced]


def holding_up(nodes: Mapping[str, NodeEvidence]) -> dict[str, tuple[str, ...]]:
    """Who waits for whom that waits for nobody itself, at this moment."""
    waiting = {n: h.waiting_for for n, h in nodes.items() if h.waiting_for and h.silent_s < _FRESH_S and not h.ended}
    awaited = {peer for peers in waiting.values() for peer in peers}
    return {
        n: tuple(sorted(other for other, peers in waiting.items() if n in peers))
        for n in sorted(awaited)
        if n in nodes and n not in waiting and not nodes[n].ended
    }


def straggling(before: Mapping[str, Straggling], holding: Iterable[str], step_s: float) -> dict[str, Straggling]:
    """What ``step_s`` more of holding up, or not, makes of it; who does so no more is forgotten."""
    now, weight = set(holding), min(1.0, step_s / _MEMORY_S)
    after = {}
    for node in sorted({*before, *now}):
        was = before.get(node, Straggling(0.0))
        share = was.share + ((node in now) - was.share) * weight
        more = was.straggling_s + step_s if was.share > _HALF else _NOTICED_S
        if share > _HALF / 10:
            after[node] = Straggling(share, more if share > _HALF else 0.0)
    return after


def too_slow(nodes: Mapping[str, NodeEvidence], held: Mapping[str, Straggling], limit_s: float) -> list[str]:
    """Who is alive and has held the others up for ``limit_s``."""
    return [n for n, h in held.items() if n in nodes and nodes[n].silent_s < _FRESH_S and h.straggling_s >= limit_s]
