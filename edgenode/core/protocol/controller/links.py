"""Links that a member cannot use to push to another one: what the controller believes, and when the graphs change.

A firewall can block one direction between two members that live. The receiver then waits for the sender's push, and all
others for the receiver. So

1. a sender reports each such link with every report of its progress, until the link works again. It relays its pushes
   through another process, so that the run goes on and a change of plan can travel.
2. A member may lie. Only a sender is believed, about a receiver in a graph of the run that it knows by its incarnation.
   A lie costs the run one edge of its own. Graphs count from the round on that the receiver is in: a change of graph
   does not help the rounds before it, so a link that stops these is still named, and may cost a member its place.
3. A link that has not worked for long is left out of the graphs (`Avoid`), if they can do without it. The record names
   it. So the next controller knows it, and so does the sender, which tries the link and reports it until it works.
4. A link that the plan does without works again once its sender knows that plan, and does not report the link. It is
   broken again, at once, if its sender reports it before the graphs use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.events import ClusterAction, Reply
from edgenode.core.protocol.orders import BlockedLink, Progress
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.status import LinkView
from edgenode.core.topology.schedule import Link

MOST_LINKS = 64  # of one sender
CHECK = "firewall, port and address"


def is_sound(sender: str, link: BlockedLink, plan: Plan, t: int, requested: frozenset[Link]) -> bool:
    """Return whether a member reports a link that it can know: rule 2.

    Args:
        t: the round that the receiver may be in.
        requested: the edges of the graphs that the run would use if all links worked.
    """
    latest, edge = plan.latest, (sender, link.receiver)
    known = sender in latest.names and link.incarnation == latest.incarnations.get(link.receiver)
    in_use = any(edge in _edges(record) for record in plan.since(t).records)
    return known and (in_use or edge in requested or edge in latest.schedule.without)


def _edges(record: Record) -> frozenset[Link]:
    """The edges of all graphs of a record."""
    schedule = record.schedule
    specs = (*schedule.graphs, *([schedule.last] if schedule.last is not None else []))
    return frozenset(edge for spec in specs for graph in spec.period(record.names) for edge in graph.edges)


class Links:
    """The links that do not work, as their senders report them."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._blocked: dict[str, tuple[BlockedLink, ...]] = {}  # by sender

    @property
    def views(self) -> tuple[LinkView, ...]:
        """The links between members."""
        if self._state.plan is None:
            return ()
        latest = self._state.plan.latest
        of_members = ((s, link) for s in latest.names for link in self._blocked.get(s, ()))
        return tuple(
            LinkView(sender, link, (sender, link.receiver) in latest.schedule.without)
            for sender, link in of_members
            if link.incarnation == latest.incarnations.get(link.receiver)
        )

    def reported(self, sender: str, progress: Progress) -> None:
        """A member reports its progress, and with it its links."""
        state = self._state
        if state.plan is None:
            return
        requested = self._requested(state.plan) if progress.blocked else frozenset[Link]()
        self._blocked[sender] = tuple(
            link
            for link in progress.blocked[:MOST_LINKS]
            if is_sound(sender, link, state.plan, self._round_of(link.receiver), requested)
        )
        if progress.number < state.plan.latest.number:
            return  # it may not try yet what it does not know to be left out
        still = {(sender, link.receiver) for link in self._blocked[sender]}
        state.broken = frozenset(link for link in state.broken if link[0] != sender or link in still)
        # precaution: a link that broke again before the graphs use it stays left out
        state.broken |= still & frozenset(state.plan.latest.schedule.without)

    def avoid(self, links: Iterable[Link]) -> None:
        """Links have not worked for long. What their senders do not report any more works again."""
        if self._state.plan is None:
            return
        latest = self._state.plan.latest
        coming = _edges(latest) | self._requested(self._state.plan) | frozenset(latest.schedule.without)
        blocked = {(view.sender, view.blocked.receiver) for view in self.views}
        self._state.broken |= blocked & coming & frozenset(links)

    def explain(self, actions: list[ClusterAction]) -> list[ClusterAction]:
        """Say in replies which links hold the run."""
        held_by = self.held_by() if any(isinstance(action, Reply) for action in actions) else ""
        if not held_by:
            return actions
        return [replace(a, held_by=held_by) if isinstance(a, Reply) and not a.error else a for a in actions]

    def held_by(self) -> str:
        """The links over which no push arrives, not even on another way."""
        return "; ".join(describe(v.sender, v.blocked) for v in self.views if not (v.blocked.by or v.left_out))

    def _round_of(self, node: str) -> int:
        """The earliest round of which a node may still wait for pushes."""
        overlap = self._state.run_spec.lag.overlap
        return self._state.membership.next_rounds.get(node, 0) - 1 - overlap

    def _requested(self, plan: Plan) -> frozenset[Link]:
        graphs = self._state.requested.graphs if self._state.requested else ()
        names = frozenset(plan.latest.names)
        fitting = (spec for spec in graphs if spec.edges is None or {e for edge in spec.edges for e in edge} <= names)
        return frozenset(edge for spec in fitting for graph in spec.period(plan.latest.names) for edge in graph.edges)


def describe(sender: str, link: BlockedLink, for_s: bool = True) -> str:
    """A link in words: what does not work, for how long, why, and what to check."""
    time = f" for {link.blocked_s:.0f} s" if for_s else ""
    way = f"; its pushes go by way of {link.by}" if link.by else ""
    return f"{sender} cannot reach {link.receiver} ({link.address}){time}: {link.reason}{way}; check {CHECK}"
