"""The shared state of a node's parts: its round, its plan, and its knowledge of its peers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from edgenode.core.algorithm.learner import Learner
from edgenode.core.algorithm.poison_alarm import PoisonAlarm
from edgenode.core.protocol.events import Fail, NodeAction, PlanChanged
from edgenode.core.protocol.member.barrier import Barrier
from edgenode.core.protocol.member.peer_knowledge import PeerKnowledge
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.orders import Fence
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.last_phase import end_of, phase_at
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.plan.signatures import Verifier
from edgenode.errors import EdgenodeError


class Stage(Enum):
    """The position of a node in its round."""

    READY = auto()
    TRAINING = auto()
    WAITING = auto()
    OVER = auto()


@dataclass(frozen=True)
class Believable:
    """A push that passed judgement.

    Attributes:
        plan: the plan with the records that the push carries.
        contribution: its numbers, in the learner's form.
    """

    message: Message
    plan: Plan
    contribution: Any


class MemberState:
    """The facts that a node decides from.

    Args:
        start: the first round.
        window: the number of its pushes to a peer that may be unanswered. More than the overlap.
        alarm: inspects what is mixed.
        lag: the lag of mixing behind pushing.

    Attributes:
        round: the round that it mixes next. All rounds before it are mixed.
        next_round: the first round that it has not pushed yet. It trains that one, if any.
        plan: the plan as far as it knows it.
        end: the round before which the run is over: all rounds done, or stopped or left by a record.
        kept_from: the first round whose push is kept, and can be taken back.
        fence: the fence that it stands behind, or None.
        halted: the controller has ordered it to begin no further round.
        handed_to: the hand-off target to which it has pushed what it had. Empty if the target was evicted before.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        learner: Learner[Any],
        start: int,
        window: int,
        verifier: Verifier,
        alarm: PoisonAlarm | None,
        lag: Lag,
    ) -> None:
        self.name, self.learner, self.window = name, learner, window
        self.verifier, self.alarm, self.lag = verifier, alarm, lag
        self.since = self.round = self.next_round = self.kept_from = start
        self._follow(plan)
        self.stage = Stage.READY
        self.fence: Fence | None = None
        self.halted, self.handed_to = False, ""
        self.barrier: Barrier[Any] = Barrier()
        self.peers = PeerKnowledge(plan)
        self.incarnation = plan.at(start).incarnations[name]  # a welcome can come after the record of its leave

    def believe(self, push: Believable) -> list[NodeAction]:
        """Adopt the records of a push, keep its contribution for its round, and note what it shows of its sender."""
        message, plan, t = push.message, push.plan, push.message.round
        changes = self.adopt(plan)
        self.barrier.add(t, message.sender, push.contribution)
        self.peers.learned(message.sender, max(message.number, *(r.number for r in message.records), 0))
        # precaution: a push is evidence of what its sender has mixed, and of no more
        mixed = self.lag.mixed_before(plan, t)
        for peer, before in ((message.sender, mixed), *message.begun_rounds):
            self.peers.began(peer, before)
        return changes

    def adopt(self, plan: Plan) -> list[NodeAction]:
        """Take over a plan that extends the one that is known, and carry out its evictions."""
        new = plan.records[len(self.plan.records) :]
        self._follow(plan)
        for record in new:
            if record.evictions:
                self._carry_out(record)
        return [PlanChanged(record) for record in new]

    def _carry_out(self, record: Record) -> None:
        """Undo what the evicted did after their last round that counts, and continue without them."""
        for node, last in record.evictions:
            self.peers.forget(node)
            # precaution: what an evicted node pushed after its last round is discarded
            self.barrier.discard(node, after=self.lag.newest_push(self.plan, last))
        for t, receiver in self.taken_back(self.plan, record):
            # precaution: what was pushed to an evicted node is taken back
            self.learner.undo_push(t, self.plan.graph(t).weight(self.name, receiver))
        self.fence = None

    def _follow(self, plan: Plan) -> None:
        """Derive the length of the training and the end of the run from a plan."""
        self.plan = plan
        if plan.latest.rounds is not None:
            self.learner.train_until(plan.latest.rounds)
        later = [r for r in plan.records if r.start > self.since]  # an earlier process may have left, too
        leaves = [r.start for r in later if any(leaver == self.name for leaver, _ in r.handoffs)]
        self.end = min([end_of(plan, self.learner.rounds), *plan.ends, *leaves])

    @property
    def fenced(self) -> frozenset[str]:
        """Behind a fence, the nodes that are being evicted. Empty without one."""
        return self.fence.evicted if self.fence else frozenset()

    @property
    def mixed_before(self) -> int:
        """The round before which all are to be mixed before the next one begins."""
        return self.lag.mixed_before(self.plan, self.next_round)

    @property
    def given_before(self) -> int:
        """The round before which what the receivers get has left x: with an overlap when it is pushed, else mixed."""
        # precaution: what is in flight to an evicted node is taken back
        return self.next_round if self.lag.overlap else self.round

    def taken_back(self, plan: Plan, record: Record) -> list[tuple[int, str]]:
        """The pushes that are taken back when a record of a plan evicts their receivers: their rounds and receivers."""
        # precaution: a leaver that has handed over what it had takes nothing back
        if (self.handed_to or self.stage is Stage.OVER) and self.name not in record.names:
            return []  # its x has moved to its hand-off target, even if its last pushes are not answered yet
        pushes = []
        for node, last in record.evictions:
            for t in range(max(last, self.since), self.given_before):
                if phase_at(plan, t):
                    break  # it changes no x, and begins again from that
                graph = plan.graph(t)
                if node in graph.out_neighbours(self.name) and self.name not in graph.leaving:
                    pushes.append((t, node))
        return pushes

    @property
    def awaited_round(self) -> int:
        """The round that it cannot mix, or cannot begin, if it waits."""
        return self.round if self.stage is Stage.WAITING else self.next_round

    @property
    def stands_still(self) -> bool:
        """True if it stands still as ordered: no local step is under way, and none will begin."""
        return self.halted and self.stage in (Stage.READY, Stage.WAITING)

    def missing(self) -> tuple[str, ...]:
        """The peers that hold this node up: in-neighbours without a push, or receivers without an answer."""
        if self.stage is Stage.WAITING:
            evicted = self.plan.evicted_later(self.round)
            senders = self.plan.graph(self.round).in_neighbours(self.name)
            return self.barrier.missing(self.round, tuple(s for s in senders if s not in evicted))
        if self.stage is Stage.READY:
            # precaution: a sender waits when a window of pushes is unanswered
            answered_to = self.next_round if self.next_round >= self.end else self.next_round - self.window + 1
            return self.peers.owing(answered_to)
        return ()

    def buffered(self) -> dict[str, int]:
        """The number of pushes of each sender that wait here."""
        incarnations = self.plan.latest.incarnations
        since = {s: self.plan.processes.joined(s, incarnations.get(s, 0)) for s in self.peers.begun}
        return {s: self.barrier.buffered_from(s, t) for s, t in since.items()}

    def fail(self, error: EdgenodeError) -> list[NodeAction]:
        """Give up, once: the first error is the cause."""
        failed, self.stage = self.stage is Stage.OVER, Stage.OVER
        return [] if failed else [Fail(error)]
