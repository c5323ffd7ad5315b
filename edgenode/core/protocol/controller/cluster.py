"""The controller's decisions as a state machine: ``Cluster.handle(event) -> [action]``. No I/O, no clock.

The cluster decides who is a member and how the plan changes. It is not in the data path: nodes train without it.

- A node that connects is refused, welcomed, or sent what it missed (`arrivals`).
- A run starts when all nodes are there (`bootstrap`).
- A graceful change is a record that is offered to one member and travels on the members' own pushes
  (`pending_changes`, `offers`). A controller that dies right after the offer has done its work.
- A silent member is fenced, then evicted (`eviction`).
- A link that does not work is left out of the graphs (`links`).
- A run whose algorithm needs its initial members keeps them (`fixed_members`).
- A pause needs no agreement on a round: the barrier stops every node as soon as one stands still.

Rules that hold for every event:

1. Actions are performed in their order. What follows a Persist relies on what it wrote.
2. An order to a node without a link is lost. So everything that a node has to know is sent again when it connects:
   the greeting with the pause, the welcome, the fence or how it ended, and the same offer.
3. A run has one controller. The one with the lower term, or a second one of the same term, steps down.
4. A node name has one process. A new process under a member's name proves that the old one is dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from edgenode.core.protocol.controller.accusations import Accusations
from edgenode.core.protocol.controller.arrivals import Arrivals
from edgenode.core.protocol.controller.bootstrap import Bootstrap
from edgenode.core.protocol.controller.changes import Departure
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.controller.deadlines import most_reported
from edgenode.core.protocol.controller.eviction import Evictions
from edgenode.core.protocol.controller.fixed_members import FixedMembers
from edgenode.core.protocol.controller.idle_members import IdleMembers
from edgenode.core.protocol.controller.links import Links
from edgenode.core.protocol.controller.offers import Offers
from edgenode.core.protocol.controller.pending_changes import PendingChanges
from edgenode.core.protocol.controller.reports import check_report
from edgenode.core.protocol.events import (
    UNREQUESTED,
    Avoid,
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Evict,
    Extend,
    Pause,
    Persist,
    Reply,
    Reported,
    Resume,
    Revoke,
    Rotate,
    Send,
    Stop,
)
from edgenode.core.protocol.orders import (
    Abort,
    Accusation,
    FenceAnswer,
    Fetched,
    Join,
    Leadership,
    Leave,
    NewKey,
    NodeReport,
    OfferAnswer,
    Progress,
    Revoked,
    StopRun,
    TrainingEnded,
)
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.protocol.plan.signatures import UNSIGNED, Signer
from edgenode.core.protocol.status import PendingChange


class Cluster:
    """The membership and the plan of one run.

    Args:
        leadership: the identity of this controller. Its term is higher at every start.
        saved: the state that the last controller persisted, or None.
        recover: take the plan from the members that run, since what was persisted is lost. Without it, members that
            run follow another controller.
        signer: signs the records and greetings of this controller, and verifies those that nodes report.

    Attributes:
        state, evictions, links: its decisions and its knowledge, for others to read. Only the cluster changes them.
    """

    def __init__(
        self,
        run_spec: RunSpec,
        leadership: Leadership,
        saved: Persist | None = None,
        recover: bool = False,
        signer: Signer = UNSIGNED,
    ) -> None:
        self.state = ClusterState(run_spec, leadership, recover, signer)
        if saved:
            self.state.restore(saved)
        self._membership = self.state.membership
        self._changes = PendingChanges(self.state)
        self._offers = Offers(self.state, self._changes, lambda node: self._evict_all([node]))
        self._idle = IdleMembers(self.state, self._changes)
        self.evictions = Evictions(self.state, self._offers)
        self._bootstrap = Bootstrap(self.state, self._changes, self.evictions)
        self._accusations = Accusations(self.state, self.evictions, self._evict)
        self.links = Links(self.state)
        self._fixed = FixedMembers(self.state, self._bootstrap.resume_if_complete)
        parts = self.state, self._offers, self.evictions, self._bootstrap
        self._arrivals = Arrivals(*parts, self._evict_all, self.close)

    def reached_at(self, address: str) -> None:
        """Greet nodes with the address, host:port, at which they reach this controller."""
        self.state.leadership = replace(self.state.leadership, address=address)

    def hold(self, nodes: frozenset[str]) -> None:
        """Admit none of these nodes as newcomers, from the next event on. The others are free to join."""
        self._membership.held = nodes

    def pending(self) -> tuple[PendingChange, ...]:
        """The changes that are not part of the plan yet."""
        return self._changes.pending(self.evictions.evicted)

    @property
    def awaited(self) -> frozenset[str]:
        """The members whose answer to a fence, or whose return, all others wait for."""
        return self.evictions.awaited | self._fixed.awaited

    # --- events -------------------------------------------------------------------------------------

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        """Handle one event. Return what is to be done, in this order.

        Raises:
            RemoteProtocolError: a node reports records that no controller of this cluster made, or rounds that the run
                does not have. Nothing has changed.
        """
        actions = [*self._handle(event), *self.evictions.cover_newcomers()]
        if self.state.plan is not None and self.state.plan.latest.end is not None:
            actions += self.state.halt(False)  # all nodes stop at one round, and have to reach it
        if not self.evictions.ballot:
            self._changes.reroute()
            actions += self._offers.make_next()
        actions += self._changes.answer_queued(self.evictions.evicted)
        return [*self.links.explain(actions), *self._bootstrap.sponsor_newcomers(), *self._fixed.gather()]

    def _handle(self, event: ClusterEvent) -> list[ClusterAction]:
        match event:
            case Reported(node, report):
                return self._reported(node, report)
            case Disconnected(node):
                self._membership.disconnect(node)
                return []
            case Rotate() | Stop() | Extend():
                return self._changes.request(event)
            case Pause() | Resume():
                return self._pause(event)
            case Evict():
                return self._evict(event)
            case Revoke(keys):
                return self._revoke(keys)
            case Avoid(links):
                self.links.avoid(links)
                return []
        assert_never(event)

    def _reported(self, node: str, report: NodeReport) -> list[ClusterAction]:
        check_report(node, report, most_reported(self.state))
        match report:
            case Join():
                return self._arrivals.joined(node, report)
            case Progress():
                return self._progressed(node, report)
            case OfferAnswer():
                return self._offers.answered(node, report)
            case FenceAnswer():
                self.state.check(Plan(report.records))
                return self.evictions.answered(node, report)
            case Fetched():
                return self._changes.fetched(node)
            case Leave():
                return self._changes.request(Departure(node))
            case TrainingEnded():
                return self._idle.training_ended(node)
            case StopRun():
                return self._idle.stop() if self._membership.takes_part(node) else []
            case NewKey(key):
                return self._changes.new_key(node, key)
            case Abort(reason):
                orders = self.state.abort(node, reason)
                return [*orders, *self.close()] if orders else []
            case Accusation():
                return [] if self._changes.why_not() else self._accusations.take(node, report)
        assert_never(report)

    # --- a node reports -----------------------------------------------------------------------------

    def _progressed(self, node: str, report: Progress) -> list[ClusterAction]:
        if report.farewell is not None:
            self.state.check(Plan(report.farewell.records))
        self._membership.welcomed.pop(node, None)
        self._membership.next_rounds[node], self._membership.known[node] = report.next_round, report.number
        settled = self._offers.settle(report.number, report.digest)
        self.links.reported(node, report)
        ended = self._ended_well(node, report.farewell) if report.farewell is not None else []
        return [*settled, *ended]

    def _ended_well(self, node: str, farewell: FenceAnswer) -> list[ClusterAction]:
        """A member ended. Nothing more is asked of it, and once all have ended no node can join."""
        if self.state.plan is None or node not in self._membership.running(self.state.plan):
            return []
        self._membership.farewells[node] = farewell
        return self.close() if self.state.over else self.evictions.ended_well(node, farewell)

    def close(self) -> list[ClusterAction]:
        """Answer everything that comes too late. To be done last, if not all members have ended."""
        why = self.state.why_over()
        return [*self.state.refuse_all(self._membership.newcomers, why), *self._bootstrap.expire(why)]

    # --- requests -----------------------------------------------------------------------------------

    def _pause(self, request: Pause | Resume) -> list[ClusterAction]:
        if why_not := self._changes.why_not():
            return [Reply(request.request_id, None, why_not)]
        newest = max(self._membership.next_rounds.values(), default=0)
        return [*self.state.halt(isinstance(request, Pause)), Reply(request.request_id, newest)]

    def _evict(self, evict: Evict) -> list[ClusterAction]:
        if self.state.plan is None or evict.node not in self._membership.evictable(self.state.plan):
            return [Reply(evict.request_id, None, f"{evict.node} is not a member")]
        if self.state.over:
            return [Reply(evict.request_id, None, self.state.why_over())]
        if self.state.has_fixed_members:
            return self._fixed.evict(evict)
        if not self._membership.anyone_runs(self.state.plan):
            return self._bootstrap.give_up(evict, self.state.plan)
        return self.evictions.request(evict, self.state.plan)

    def _revoke(self, keys: frozenset[str]) -> list[ClusterAction]:
        """Make every listener refuse the keys at once, and evict their owners at one round."""
        new = keys - self.state.revoked
        self.state.revoked |= new
        for node in [node for node, join in self._membership.present.items() if join.key in new]:
            self._membership.disconnect(node)
        orders = [Send(node, Revoked(new)) for node in sorted(self._membership.present)] if new else []
        return [*orders, *self._evict_all(self.state.revoked_members())]

    def _evict_all(self, nodes: Iterable[str]) -> list[ClusterAction]:
        """Evict nodes that are dead or revoked, whatever number is left. `Evictions.request` has the exception."""
        return [action for node in sorted(nodes) for action in self._evict(Evict(UNREQUESTED, node, force=True))]
