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
   protocol, as that cannot happen (`pending_changes`).
5. Fence. Behind a fence a node takes nothing from the evicted and begins no round (`eviction`). When the eviction is
   committed, it discards what the evicted pushed after their last round, and takes back what it pushed to them.

What a peer sends is believed after it has been judged (`judgement`), and not before. A peer's mistake raises
RemoteProtocolError, and leaves the node as it was.
"""

from __future__ import annotations

from typing import Any, assert_never

from edgenode.core.algorithm.learner import Learner
from edgenode.core.algorithm.poison_alarm import PoisonAlarm
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Received,
    Report,
    TimedOut,
    Trained,
)
from edgenode.core.protocol.member.judgement import (
    branch,
    candidate,
    check_push,
    check_round,
    extended,
    too_late,
    verify,
)
from edgenode.core.protocol.member.member_state import MemberState, Stage
from edgenode.core.protocol.member.rounds import Rounds
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import Abort, EvictionCommitted, Fence, FenceAnswer, Halt, Offer, OfferAnswer
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.protocol.plan.last_phase import transfer
from edgenode.core.protocol.plan.plan import Plan, Record
from edgenode.core.protocol.plan.signatures import UNSIGNED, Verifier
from edgenode.errors import Diverged, Evicted, RemoteProtocolError


class Node:
    """The protocol of one member.

    Args:
        start: the first round.
        window: how many of its pushes to a peer may be unanswered. More than the overlap.
        evaluate_every, checkpoint_every, publish_every: in rounds; 0 for only at the end.
        verifier: of the records that come later than ``plan``.
        alarm: inspects what is mixed.
        lag: how far mixing lags behind pushing. With an overlap it drains at every checkpoint.
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
        self._state = MemberState(name, plan, learner, start, window, verifier, alarm, lag)
        self._rounds = Rounds(self._state, evaluate_every, checkpoint_every, publish_every)

    # --- what others may read -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name under which it is a member."""
        return self._state.name

    @property
    def window(self) -> int:
        """How many of a sender's pushes can wait here."""
        return self._state.window

    @property
    def round(self) -> int:
        """The round that it mixes next. All rounds before it are mixed."""
        return self._state.round

    @property
    def next_round(self) -> int:
        """The first round that it has not pushed yet."""
        return self._state.next_round

    @property
    def end(self) -> int:
        """The round before which the run is over for it."""
        return self._state.end

    @property
    def plan(self) -> Plan:
        """What it knows of the plan."""
        return self._state.plan

    @property
    def stage(self) -> Stage:
        """Where in its round it is."""
        return self._state.stage

    @property
    def fenced(self) -> frozenset[str]:
        """Behind a fence, the nodes that are being evicted. Empty without one."""
        return self._state.fenced

    @property
    def fence(self) -> Fence | None:
        """That it stands behind, if any."""
        return self._state.fence

    @property
    def halted(self) -> bool:
        """Whether it was ordered to begin no further round."""
        return self._state.halted

    @property
    def stands_still(self) -> bool:
        """Whether it was ordered to, and does."""
        return self._state.stands_still

    def missing(self) -> tuple[str, ...]:
        """The peers that hold it up."""
        return self._state.missing()

    def buffered(self) -> dict[str, int]:
        """How many pushes of each sender wait here."""
        return self._state.buffered()

    # --- events -------------------------------------------------------------------------------------

    def start(self, halted: bool = False) -> list[NodeAction]:
        """The first actions: a checkpoint of the beginning, and, unless the run is paused, the first round."""
        self._state.halted = halted
        return [self._rounds.save(), *self._rounds.advance()]

    def handle(self, event: NodeEvent) -> list[NodeAction]:
        """Handle one event. Return what is to be done, in this order.

        Raises:
            RemoteProtocolError: a peer broke the protocol. Nothing of its message was mixed.
            LocalProtocolError: this process did.
            Diverged: what it would push is not finite, or nearly so.
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
                self._state.fence = None
                return [*changes, *self._rounds.resume()]
            case Halt(halted):
                return self._rounds.halt(halted)
            case Abort(reason):
                return self._abort(event, reason)
        assert_never(event)

    def _abort(self, abort: Abort, reason: str) -> list[NodeAction]:
        """Training diverged, here or elsewhere. The controller is not in the data path, so it may not know yet."""
        failed = self._state.fail(Diverged(reason))
        return [Report(abort), *failed] if failed else []

    # --- peers --------------------------------------------------------------------------------------

    def _received(self, message: Message) -> list[NodeAction]:
        """Judge a push by the plan with the records that it carries, and believe nothing of it before that."""
        state = self._state
        sender, t = message.sender, message.round
        # precaution: a fenced node takes no push of a node that is being evicted
        if sender in state.fenced:
            return []  # what counts of it is settled when the eviction is committed, its records included
        if self._is_evicted(message):
            return [self._answer(message, Verdict.STALE, state.plan.at(t).digest)]
        plan = candidate(state, message.records)
        record = plan.at(t)
        if message.digest != record.digest:
            # of an old round, too: SEEN would claim that it was mixed here
            return [self._answer(message, Verdict.STALE, record.digest)]
        check_push(message, plan, state.name)
        # precaution: a push that was mixed is not taken again
        if t < state.round:
            return [self._answer(message, Verdict.SEEN)]
        # precaution: a repeat of a push that waits is ignored
        if not state.barrier.missing(t, (sender,)):
            return []  # it is answered when it is mixed
        check_round(state, message, plan)
        parts = transfer(plan, t, sender)
        contribution = state.learner.read(t, message.weight, message.u, message.payload, parts)
        if self._is_out(message.records):
            return self._evicted()
        changes = self._take(plan)
        state.barrier.add(t, sender, contribution)
        state.peers.learned(sender, max(message.number, *(r.number for r in message.records), 0))
        # precaution: a push is evidence of what its sender has mixed, and of no more
        mixed = state.lag.mixed_before(plan, t)
        for peer, before in ((sender, mixed), *message.begun_rounds):
            state.peers.began(peer, before)
        # precaution: a push is acknowledged when it is mixed, not when it arrives
        go_on = self._rounds.resume() if changes else self._rounds.advance() if state.stage is Stage.WAITING else []
        return [*changes, *go_on]

    def _is_evicted(self, message: Message) -> bool:
        """Whether the sender is a process that was evicted, and may not know it."""
        # precaution: a push of an evicted incarnation is refused
        return message.incarnation <= self._state.plan.last_evicted(message.sender)

    def _answer(self, message: Message, verdict: Verdict, detail: str = "") -> Answer:
        plan, stale = self._state.plan, verdict is Verdict.STALE
        news = tuple(r for r in plan.records if r.number > message.number) if stale else ()
        return Answer(message.sender, Ack(message.round, verdict, plan.latest.number, detail, news))

    def _answered(self, receiver: str, ack: Ack) -> list[NodeAction]:
        """Believe an answer to a push of ours. A refusal proves nothing but an eviction (`judgement`)."""
        state = self._state
        if not state.peers.owes(receiver, ack.round):
            return []  # answered before, or pushed by an earlier process of this name
        match ack.verdict:
            case Verdict.OK | Verdict.SEEN:
                state.peers.learned(receiver, min(ack.knows, state.plan.latest.number))
                state.peers.answered(receiver, ack.round)
                # It mixed that round.
                # precaution: an answer is evidence that its sender began the next round
                state.peers.began(receiver, ack.round + 1)
                freed = state.stage is Stage.READY and not state.missing()  # one Await per wait, not per answer
                return self._rounds.advance() if freed else []
            case Verdict.STALE:
                verify(state, ack.records)
                if self._is_out(ack.records):
                    branch(state.plan, ack.records)
                    return self._evicted()
                ours = state.plan.at(ack.round).digest
                raise RemoteProtocolError(
                    f"{receiver} refused round {ack.round}: its plan is {ack.detail[:64]}, ours {ours}"
                )
            case Verdict.ERROR:
                raise RemoteProtocolError(f"{receiver} refused round {ack.round}: {ack.detail}")
        assert_never(ack.verdict)

    def _is_out(self, records: tuple[Record, ...]) -> bool:
        """Whether records of this run evict this process."""
        return any(
            self._state.name in dict(record.evictions)
            and record.start > self._state.since
            and record.run == self._state.plan.latest.run
            for record in records
        )

    def _evicted(self) -> list[NodeAction]:
        return self._state.fail(Evicted(f"{self._state.name} was evicted, and is not a member any more"))

    # --- the plan -----------------------------------------------------------------------------------

    def _offered(self, record: Record) -> list[NodeAction]:
        """Accept a record if the coming pushes carry it to every member before it starts. A repeat is accepted."""
        state = self._state
        if record.digest == state.plan.latest.digest:
            return [self._answer_offer(record, accepted=True)]
        verify(state, (record,))
        covered = reach(state.plan, state.name, state.next_round, state.lag.overlap)
        rounds = max(1, covered)  # a lone node may be in its next round
        # precaution: a change starts when everyone can know it
        in_time = record.known_by >= state.next_round + rounds and not state.fenced
        if state.round >= state.end or not in_time:
            return [self._answer_offer(record, accepted=False)]
        return [*self._take(candidate(state, (record,))), self._answer_offer(record, accepted=True)]

    def _answer_offer(self, record: Record, accepted: bool) -> Report:
        return Report(OfferAnswer(record.number, record.digest, accepted, self._state.next_round))

    def _learn(self, records: tuple[Record, ...]) -> list[NodeAction]:
        """Take records from the controller, oldest first: all of them, or none.

        The barrier brings every record in time, unless a faulty member withholds it. Then this node has begun rounds
        that the others do not have, and rejoins.
        """
        verify(self._state, records)
        if self._is_out(records):
            return self._evicted()
        plan = extended(self._state.plan, records)
        if why := too_late(self._state, plan):
            return self._state.fail(Evicted(f"{self._state.name} was left behind: {why}"))
        return self._take(plan)

    def _take(self, plan: Plan) -> list[NodeAction]:
        """Adopt a candidate."""
        state = self._state
        new = plan.records[len(state.plan.records) :]
        state.adopt(plan)
        for record in new:
            if record.evictions:
                self._carry_out(record)
        return [PlanChanged(record) for record in new]

    def _carry_out(self, record: Record) -> None:
        """Undo what the evicted did after their last round that counts, and continue without them."""
        state = self._state
        for node, last in record.evictions:
            state.peers.forget(node)
            # precaution: what an evicted node pushed after its last round is discarded
            state.barrier.discard(node, after=state.lag.newest_push(state.plan, last))
        for t in state.taken_back(state.plan, record):
            # precaution: what was pushed to an evicted node is taken back
            state.learner.undo_push(t, state.plan.graph(t).weight(state.name))
        state.fence = None

    # --- the fence -------------------------------------------------------------------------------

    def _fence(self, fence: Fence) -> list[NodeAction]:
        """Promise, and report where this node is. The last fence counts: a link keeps the order of its messages.

        The promise needs no disk: a process that crashes comes back as another incarnation, which promised nothing.
        """
        self._state.verifier.verify(fence)
        self._state.fence = fence
        return [Report(self._fence_answer(fence.term, fence.ballot, fence.evicted))]

    def farewell(self) -> FenceAnswer:
        """The answer to every fence to come, for any evicted node. To be asked of a node that has finished."""
        return self._fence_answer(0, 0, frozenset(self._state.peers.begun))

    def _fence_answer(self, term: int, ballot: int, evicted: frozenset[str]) -> FenceAnswer:
        state = self._state
        begun = state.next_round - (state.stage is not Stage.TRAINING)
        begun_rounds = tuple((node, state.peers.begun.get(node, -1)) for node in sorted(evicted))
        return FenceAnswer(term, ballot, begun, begun_rounds, state.plan.records)
