"""One member of a run as a state machine: ``Node.handle(event) -> [action]``. No I/O, no clock, no threads.

A round goes READY -> (TRAINING ->) WAITING -> READY: train, compress and push, wait for every in-neighbour, mix. With
an overlap it is a round pushed before that is waited for and mixed (`lag`).

1. Barrier. A round is mixed when the push of every in-neighbour is here, and it is its turn. Contributions are added in
   sender order, so every order of arrival gives the same bits.
2. Acknowledgement. A push is acknowledged when it is mixed. So an acknowledged message is in the receiver's x, and its
   mass has arrived. Repeats are acknowledged again and mixed once.
3. Window. A node begins round t only when its pushes up to round t - window are acknowledged. So no node keeps more
   than ``window`` messages of one sender, and a push further ahead is against the protocol.
4. Plan. Records travel on the pushes. A record that comes after the round in which it must be known is against the
   protocol, as that cannot happen (`offers`).
5. Fence. Behind a fence a node takes nothing from the evicted and begins no round (`eviction`). When the eviction is
   committed, it discards what the evicted pushed after their last round, and takes back what it pushed to them.

What a peer sends is judged (`judgement`), then believed (`MemberState`), and then the node does what it allows
(`rounds`). A peer's mistake raises RemoteProtocolError, and leaves the node as it was.
"""

from __future__ import annotations

from typing import Any, assert_never

from edgenode.core.algorithm.learner import Learner
from edgenode.core.algorithm.poison_alarm import PoisonAlarm
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Fail,
    NodeAction,
    NodeEvent,
    Received,
    Report,
    TimedOut,
    Trained,
)
from edgenode.core.protocol.member.judgement import (
    candidate,
    evicts,
    extended,
    judge_push,
    judge_refusal,
    too_late,
    verify,
)
from edgenode.core.protocol.member.member_state import Believable, MemberState, Stage
from edgenode.core.protocol.member.rounds import Rounds
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import (
    Abort,
    Ended,
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Halt,
    Offer,
    OfferAnswer,
    Restart,
)
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.plan.signatures import UNSIGNED, Verifier
from edgenode.errors import Diverged, Evicted, PeerRestarted


class Node:
    """The protocol of one member.

    Args:
        start: the first round.
        window: the number of its pushes to a peer that may be unanswered. More than the overlap.
        evaluate_every, checkpoint_every, publish_every: in rounds; 0 for only at the end.
        verifier: verifies the records that come later than ``plan``.
        alarm: inspects what is mixed.
        lag: the lag of mixing behind pushing. With an overlap it drains at every checkpoint.

    Attributes:
        state: the facts that it decides from, for others to read. Only the node changes them.
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        learner: Learner[Any],
        start: int = 0,
        window: int = 8,
        evaluate_every: int = 0,
        checkpoint_every: int = 0,
        publish_every: int = 0,
        verifier: Verifier = UNSIGNED,
        alarm: PoisonAlarm | None = None,
        lag: Lag = LOCK_STEP,
    ) -> None:
        self.state = MemberState(name, plan, learner, start, window, verifier, alarm, lag)
        self._rounds = Rounds(self.state, evaluate_every, checkpoint_every, publish_every)

    # --- events -------------------------------------------------------------------------------------

    def start(self, halted: bool = False) -> list[NodeAction]:
        """The first actions: a checkpoint of the beginning, and, unless the run is paused, the first round."""
        self.state.halted = halted
        return [self._rounds.save(), *self._rounds.advance()]

    def handle(self, event: NodeEvent) -> list[NodeAction]:
        """Handle one event. Return what is to be done, in this order.

        Raises:
            RemoteProtocolError: a peer broke the protocol. Nothing of its message was mixed.
            LocalProtocolError: this process did.
            Diverged: its next push would not be finite, or nearly so.
        """
        match event:
            case Trained():
                return self._rounds.trained(event)
            case Received(message):
                return self._received(message)
            case Answered(receiver, ack):
                return self._answered(receiver, ack)
            case TimedOut(t):
                return self._rounds.timed_out(t)
            case Offer(record):
                return self._offered(record)
            case Fence():
                return self._fence(event)
            case EvictionCommitted(records):
                changes = self._learn(records)
                self.state.fence = None
                return [*changes, *self._rounds.resume()]
            case Halt(halted):
                return self._rounds.halt(halted)
            case Ended(peer):
                self.state.peers.ended(peer)
                return self._rounds.resume()
            case Restart(reason):
                self.state.stage = Stage.OVER
                return [Fail(PeerRestarted(reason))]  # a node that has ended restarts, too
            case Abort(reason):
                return self._abort(event, reason)
        assert_never(event)

    def _abort(self, abort: Abort, reason: str) -> list[NodeAction]:
        """Training diverged, here or elsewhere. The controller is not in the data path, so it may not know yet."""
        failed = self.state.fail(Diverged(reason))
        return [Report(abort), *failed] if failed else []

    # --- peers --------------------------------------------------------------------------------------

    def _received(self, message: Message) -> list[NodeAction]:
        """Judge a push, believe it, and go on if it is what the node waits for."""
        match judge_push(self.state, message):
            case Believable() as push:
                changes = self.state.believe(push)
                waits = self.state.stage is Stage.WAITING
                # precaution: a push is acknowledged when it is mixed, not when it arrives
                actions = self._rounds.resume() if changes or waits else []
                return [*changes, *actions]
            case Ack() as ack:
                return [Answer(message.sender, ack)]
            case Evicted() as error:
                return self.state.fail(error)
            case None:
                return []

    def _answered(self, receiver: str, ack: Ack) -> list[NodeAction]:
        """Believe an answer to a push of this node. A refusal proves nothing but an eviction (`judgement`)."""
        state = self.state
        if not state.peers.owes(receiver, ack.round):
            return []  # answered before, or pushed by an earlier process of this name
        if ack.verdict not in (Verdict.OK, Verdict.SEEN):
            return state.fail(judge_refusal(state, receiver, ack))
        state.peers.learned(receiver, min(ack.knows, state.plan.latest.number))
        state.peers.answered(receiver, ack.round)
        # It mixed that round.
        # precaution: an answer is evidence that its sender began the next round
        state.peers.began(receiver, ack.round + 1)
        freed = state.stage is Stage.READY and not state.missing()  # one Await per wait, not per answer
        return self._rounds.advance() if freed else []

    # --- the plan -----------------------------------------------------------------------------------

    def _offered(self, record: Record) -> list[NodeAction]:
        """Accept a record if the coming pushes carry it to every member before it starts. A repeat is accepted."""
        state = self.state
        if record.digest == state.plan.latest.digest:
            return [self._answer_offer(record, accepted=True)]
        verify(state, (record,))
        if state.round >= state.end:  # a node that has left pushes to nobody
            return [self._answer_offer(record, accepted=False)]
        covered = reach(state.plan, state.name, state.next_round, state.lag.overlap)
        rounds = max(1, covered)  # a lone node may be in its next round
        # precaution: a change starts when everyone can know it
        in_time = record.known_by >= state.next_round + rounds and not state.fenced
        if not in_time:
            return [self._answer_offer(record, accepted=False)]
        return [*self.state.adopt(candidate(state, (record,))), self._answer_offer(record, accepted=True)]

    def _answer_offer(self, record: Record, accepted: bool) -> Report:
        return Report(OfferAnswer(record.number, record.digest, accepted, self.state.next_round))

    def _learn(self, records: tuple[Record, ...]) -> list[NodeAction]:
        """Take records from the controller, oldest first: all of them, or none.

        The barrier brings every record in time, unless a faulty member withholds it. Then this node has begun rounds
        that the others do not have, and rejoins.
        """
        verify(self.state, records)
        if error := evicts(self.state, records):
            return self.state.fail(error)
        plan = extended(self.state.plan, records)
        if why := too_late(self.state, plan):
            return self.state.fail(Evicted(f"{self.state.name} was left behind: {why}"))
        return self.state.adopt(plan)

    # --- the fence -------------------------------------------------------------------------------

    def _fence(self, fence: Fence) -> list[NodeAction]:
        """Promise, and report where this node is. The last fence counts: a link keeps the order of its messages.

        The promise needs no disk: a process that crashes comes back as another incarnation, which promised nothing.
        """
        self.state.verifier.verify(fence)
        self.state.fence = fence
        return [Report(self._fence_answer(fence.term, fence.ballot, fence.evicted))]

    def farewell(self) -> FenceAnswer:
        """The answer to every fence to come, for any evicted node. To be asked of a node that has finished."""
        return self._fence_answer(0, 0, frozenset(self.state.peers.begun))

    def _fence_answer(self, term: int, ballot: int, evicted: frozenset[str]) -> FenceAnswer:
        state = self.state
        begun = state.next_round - (state.stage is not Stage.TRAINING)
        begun_rounds = tuple((node, state.peers.begun.get(node, -1)) for node in sorted(evicted))
        return FenceAnswer(term, ballot, begun, begun_rounds, state.plan.records)
