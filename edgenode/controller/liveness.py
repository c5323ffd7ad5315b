"""Decides which nodes may be dead, and which are slow. Pure functions of the nodes' last reports: no clock, no network.

A node may be dead if it is silent and other nodes wait for it. One of the two is not enough:

1. A silent node may have lost its link to the controller only, and still train with the others.
2. A node that reports to wait for another may itself have the bad connection.
3. So two nodes must be stuck. In a run of fewer than four members, one is enough. The failure detector then probes the
   silent node, and evicts it only if it does not answer.
4. A node that ended is silent for good. Only a node that still lacks its answer needs it, and no other one does. So one
   stuck node is enough.
5. A fence stops every member, and so does a restart of all. So a silent node whose answer the fence lacks, or that has
   not come back, needs no stuck node at all.

A slow node is alive. It holds others up if they wait for it and it waits for no node itself. What it claims does not
count if most others wait for it alone. It counts as slow if it does so more than half of the time, by a moving average
over some seconds. In a balanced run every node holds others up at times, and stays below one half.

A link does not work although both of its nodes report. If its pushes are relayed, the graphs can change. If they are
not, the run stands, and a node has to go.

Reports can be lies, so no report of one member evicts another:

1. A node counts as slow only while at least half of the others wait. A slow node delays all, and a lie delays nobody.
2. On a busy machine all wait at times, and one who lies would choose whom to blame. So two must be behind a slow node:
   they wait for it, or one does and the other waits for that one. In a run of fewer than four, one is enough.
3. A link stops the run if its sender reports it and its receiver waits for it. A node is evicted if such links to or
   from two other nodes do not work. So is a receiver that the controller does not reach either. Of one sender and one
   receiver that the controller reaches, either may lie, and both stay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from math import log

from edgenode.core.protocol.status import LinkView
from edgenode.core.topology.schedule import Link

_FRESH_S = 2.0  # an older report does not show what its node waits for now
_AVERAGE_OVER_S = 5.0  # time constant of the share
_HALF = 0.5
_REACHES_HALF_S = _AVERAGE_OVER_S * log(
    2
)  # the share of a node that always holds others up exceeds one half after this


@dataclass(frozen=True)
class LastReport:
    """The last report of a node.

    Attributes:
        age_s: seconds since it arrived, or since the controller started to wait for the first one.
        waiting_for: in-neighbours whose push the node lacks.
        waiting_s: seconds since it began to wait for them.
        ended: the node did all its rounds, or stopped as an operator requested.
    """

    age_s: float
    waiting_for: tuple[str, ...] = ()
    waiting_s: float = 0.0
    ended: bool = False


@dataclass(frozen=True)
class Straggling:
    """The share of time in which a node holds others up.

    Attributes:
        share: share of the recent time, 0 to 1.
        straggling_s: seconds since the share rose above one half.
    """

    share: float
    straggling_s: float = 0.0


def suspects(
    reports: Mapping[str, LastReport], members: int, limit_s: float, awaited: frozenset[str] = frozenset()
) -> list[str]:
    """Nodes that may be dead, and have to be probed.

    Args:
        reports: the last report of each node.
        members: the number of members that have not ended.
        limit_s: a node is silent if its last report is at least this old. A node is stuck if it has waited half of it.
        awaited: nodes whose answer or return all others wait for.
    """
    stuck = {n for n, r in reports.items() if r.waiting_for and r.waiting_s >= limit_s / 2 and r.age_s < limit_s}
    silent = [n for n, r in reports.items() if r.age_s >= limit_s]
    enough = len(stuck) >= (2 if members >= 4 else 1)
    waited_for = {peer for node in stuck for peer in reports[node].waiting_for}
    return [n for n in silent if n in awaited or (n in waited_for and (enough or reports[n].ended))]


def holding_up(reports: Mapping[str, LastReport]) -> dict[str, tuple[str, ...]]:
    """The nodes that wait for no node, each with the nodes that wait for it now: rule 2 of reports.

    A node may claim to wait. It counts nevertheless if two other nodes, and half of them, wait for it alone.
    """
    waiting = {n: r.waiting_for for n, r in reports.items() if r.waiting_for and r.age_s < _FRESH_S and not r.ended}
    waiters = defaultdict[str, set[str]](set)
    for n, peers in waiting.items():
        for peer in peers:
            waiters[peer].add(n)
    enough = 2 if sum(not r.ended for r in reports.values()) >= 4 else 1
    alone = Counter(peers[0] for n, peers in waiting.items() if len(peers) == 1 and peers[0] != n)
    most = {n for n, count in alone.items() if count >= 2 and 2 * count >= len(reports) - 1}
    return {
        n: tuple(sorted(waiters[n]))
        for n in sorted(waiters.keys() & reports.keys())
        if (n not in waiting or n in most) and not reports[n].ended and _behind(n, waiters) >= enough
    }


def _behind(node: str, waiters: Mapping[str, set[str]]) -> int:
    """The number of other nodes that wait for a node. If there is one only, also of those that wait for that one."""
    first = waiters[node] - {node}
    return len(first if len(first) > 1 else first.union(*(waiters.get(n, set()) for n in first)) - {node})


def are_delayed(reports: Mapping[str, LastReport]) -> bool:
    """Return whether at least half of the nodes wait, without the one that they may wait for: rule 1 of reports."""
    running = [r for r in reports.values() if not r.ended]
    waiting = sum(bool(r.waiting_for) and r.age_s < _FRESH_S for r in running)
    return waiting > 0 and 2 * waiting >= len(running) - 1


def update_straggling(before: Mapping[str, Straggling], holding: Iterable[str], step_s: float) -> dict[str, Straggling]:
    """Advance the averages by a step in which the nodes of ``holding`` held others up. Small shares are dropped."""
    now, weight = set(holding), min(1.0, step_s / _AVERAGE_OVER_S)
    after = {}
    for node in sorted({*before, *now}):
        was = before.get(node, Straggling(0.0))
        share = was.share + ((node in now) - was.share) * weight
        straggling_s = was.straggling_s + step_s if was.share > _HALF else _REACHES_HALF_S
        if share > _HALF / 10:
            after[node] = Straggling(share, straggling_s if share > _HALF else 0.0)
    return after


def too_slow(reports: Mapping[str, LastReport], straggling: Mapping[str, Straggling], limit_s: float) -> list[str]:
    """Nodes that report, and have held others up for ``limit_s``."""
    return [
        n for n, s in straggling.items() if n in reports and reports[n].age_s < _FRESH_S and s.straggling_s >= limit_s
    ]


def lasting(
    links: Iterable[LinkView], reports: Mapping[str, LastReport], limit_s: float
) -> tuple[frozenset[Link], frozenset[Link]]:
    """The links between nodes that report, and that have not worked for ``limit_s``: relayed ones, and those that stop
    the run.

    A receiver that is silent may be dead, and a link stops nothing unless its receiver reports that it waits.
    """
    alive = {n for n, r in reports.items() if r.age_s < limit_s and not r.ended}
    waiting = {(peer, n) for n, r in reports.items() if r.waiting_s >= limit_s / 2 for peer in r.waiting_for}
    old = [v for v in links if v.blocked.blocked_s >= limit_s and {v.sender, v.blocked.receiver} <= alive]
    relayed = frozenset((v.sender, v.blocked.receiver) for v in old if v.blocked.by)
    stopping = frozenset(
        (v.sender, v.blocked.receiver)
        for v in old
        if not v.blocked.by and not v.left_out and (v.sender, v.blocked.receiver) in waiting
    )
    return relayed, stopping


def most_blocked(links: Iterable[Link], reached: Container[str] = ()) -> str:
    """The node to evict for links that work on no way, or "" if the reports of one member are all that there is.

    It is the one with most others: of two with as many, the one that fewer can reach.

    Args:
        reached: the receivers that the controller reaches.
    """
    others, senders = defaultdict[str, set[str]](set), Counter[str]()
    for sender, receiver in links:
        others[sender].add(receiver)
        others[receiver].add(sender)
        senders[receiver] += receiver not in reached
    known = [node for node in sorted(others) if len(others[node]) >= 2 or senders[node]]
    return max(known, key=lambda node: (len(others[node]), senders[node]), default="")
