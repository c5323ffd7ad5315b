"""One node of a run as a state machine: ``Node.handle(event) -> [action]``. No I/O, no clock, no threads.

A round goes READY -> (TRAINING ->) WAITING -> READY: train, emit and push, wait for every in-neighbour, mix.
A push is acknowledged when it is *mixed*, so an acknowledged message is in the receiver's x, and a sender with
``window`` pushes unanswered holds still: a receiver never keeps more than window messages of one sender.
The plan changes by records that travel on the pushes themselves; nobody can finish a round without hearing its
in-neighbours, so the barrier is the acknowledgement.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, assert_never

from edgenode.core.algorithm.learner import Learner
from edgenode.core.protocol.barrier import Barrier
from edgenode.core.protocol.messages import (
    Acknowledge,
    Acknowledged,
    AnswerFence,
    AnswerOffer,
    Await,
    Decreed,
    Evaluate,
    Fail,
    Fenced,
    Finish,
    Halted,
    Message,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Push,
    Received,
    RecordOffered,
    Save,
    TimedOut,
    Train,
    Trained,
    Verdict,
)
from edgenode.core.protocol.plan import Plan, Record, reach
from edgenode.errors import (
    BarrierTimeout,
    DigestMismatch,
    EdgenodeError,
    Evicted,
    LocalProtocolError,
    RemoteProtocolError,
)


class Stage(Enum):
    """Where in its round a node is."""

    READY = auto()
    TRAINING = auto()
    WAITING = auto()
    OVER = auto()


class Node:
    """The protocol of one member.

    Attributes:
        round: the round it is in: all before it are mixed.
        plan: what it knows of the plan.
        fenced: behind a fence, whom it shuts out; else empty.
        halted: told to begin no further round.
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
    ) -> None:
        self.name, self.plan, self.round = name, plan, start
        self.stage = Stage.READY
        self._since = start
        self._learner = learner
        self._window = window
        self._evaluate_every, self._checkpoint_every = evaluate_every, checkpoint_every
        self._barrier: Barrier[Any] = Barrier()
        self._unanswered: set[tuple[int, str]] = set()
        self._pushed: tuple[int, int] = (0, 0)  # messages and payload bytes of the current round
        self._newest: dict[str, int] = {}  # the newest round of each sender that it must have begun
        self.fenced: frozenset[str] = frozenset()
        self.halted = False
        self._knows: dict[str, int] = dict.fromkeys(plan.latest.names, plan.records[0].number)
        self._incarnation = plan.at(start).incarnations[name]  # a welcome can come after the record of its leave

    @property
    def end(self) -> int:
        """The round before which the run is over: all rounds done, or stopped by a record."""
        stops = [r.end for r in self.plan.records if r.end is not None]
        later = [r for r in self.plan.records if r.start > self._since]  # an earlier process may have left, too
        leaves = [r.start for r in later if any(leaver == self.name for leaver, _ in r.handoffs)]
        return min([self._learner.rounds, *stops, *leaves])

    @property
    def next_round(self) -> int:
        """The first round this node has not pushed yet."""
        return self.round + (self.stage is Stage.WAITING)

    def missing(self) -> tuple[str, ...]:
        """The peers that hold this node up: in-neighbours to hear from, or receivers that owe an answer."""
        if self.stage is Stage.WAITING:
            gone = self.plan.evicted_later(self.round)
            senders = self.plan.graph(self.round).in_neighbours(self.name)
            return self._barrier.missing(self.round, tuple(s for s in senders if s not in gone))
        if self.stage is Stage.READY:
            # precaution: a sender waits when a window of pushes is unanswered
            answered_to = self.round if self.round >= self.end else self.round - self._window + 1
            return tuple(sorted({peer for r, peer in self._unanswered if r < answered_to}))
        return ()

    def held(self) -> dict[str, int]:
        """How many pushes of each sender wait here."""
        incarnations = self.plan.latest.incarnations
        return {s: self._barrier.buffered_from(s, self.plan.joined(s, incarnations.get(s, 0))) for s in self._newest}

    @property
    def stands_still(self) -> bool:
        """Whether it was told to, and does: no local step is under way, and none will begin."""
        return self.halted and self.stage in (Stage.READY, Stage.WAITING)

    def start(self, halted: bool = False) -> list[NodeAction]:
        """The first actions: a checkpoint of the beginning, and, unless the run is paused, the first round."""
        self.halted = halted
        return [self._save(), *self._advance()]

    def handle(self, event: NodeEvent) -> list[NodeAction]:
        """Take one event; return what is to be done, in this order.

        Raises:
            RemoteProtocolError: a peer broke the protocol; nothing of its message was mixed.
            LocalProtocolError: this process did.
        """
        match event:
            case Trained():
                return self._trained(event)
            case Received(message):
                return self._received(message)
            case Acknowledged():
                return self._acknowledged(event)
            case RecordOffered(record):
                return self._offered(record)
            case TimedOut(t):
                return self._timed_out(t)
            case Fenced():
                return self._behind_fence(event)
            case Decreed(records):
                changes = self._learn(records)
                self.fenced = frozenset()
                return [*changes, *self._go_on()]
            case Halted(halted):
                return self._halt(halted)
        assert_never(event)

    # --- rounds -------------------------------------------------------------------------------------

    def _advance(self) -> list[NodeAction]:
        """Go as far as possible without another event."""
        actions: list[NodeAction] = []
        while True:
            match self.stage:
                # precaution: a fenced node begins no round
                # precaution: a paused node begins no round
                case Stage.READY if self.fenced or (self.halted and self.round < self.end):
                    return actions
                case Stage.READY if missing := self.missing():
                    return [*actions, Await(self.round, missing)]
                case Stage.READY if self.round >= self.end:
                    self.stage = Stage.OVER
                    complete = self.round >= self._learner.rounds
                    return [*actions, Finish(self.round, self._learner.model(), complete)]
                case Stage.READY if self._learner.trains(self.round):
                    self.stage = Stage.TRAINING
                    return [*actions, Train(self.round, self._learner.model())]
                case Stage.READY:
                    actions += self._emit(None)
                case Stage.WAITING if not self.missing():
                    actions += self._mix()
                case _:
                    return actions

    def _trained(self, event: Trained) -> list[NodeAction]:
        if self.stage is Stage.OVER:
            return []  # the run failed meanwhile
        if self.stage is not Stage.TRAINING or event.round != self.round:
            raise LocalProtocolError(f"trained round {event.round} while {self.stage.name} in round {self.round}")
        return [*self._emit(event.local_update), *self._advance()]

    def _emit(self, local_update: Any) -> list[NodeAction]:
        graph, record = self.plan.graph(self.round), self.plan.at(self.round)
        leaves = self.name in graph.leaving
        payload, u = self._learner.emit(self.round, local_update, whole=leaves)
        # precaution: a leaver hands on which rounds the others have begun
        held = tuple(sorted(self._newest.items())) if leaves else ()
        gone = self.plan.evicted_later(self.round)
        receivers = [peer for peer in graph.out_neighbours(self.name) if peer not in gone]
        actions: list[NodeAction] = []
        for peer in receivers:
            news = tuple(r for r in self.plan.records if r.number > self._knows.get(peer, -1))
            weight = graph.weight(self.name)
            message = Message(
                self.name,
                self._incarnation,
                self.round,
                record.number,
                record.digest,
                weight,
                u,
                payload,
                news,
                held,
            )
            self._unanswered.add((self.round, peer))
            actions.append(Push(peer, message))
        self._pushed = (len(receivers), len(payload) * len(receivers))
        self.stage = Stage.WAITING
        if missing := self.missing():
            actions.append(Await(self.round, missing))
        return actions

    def _mix(self) -> list[NodeAction]:
        received = self._barrier.release(self.round)
        if self.name not in self.plan.graph(self.round).leaving:  # a leaver's state is its heir's by now
            self._learner.mix(self._kept(self.round), [c for _, c in received])
        self._learner.forget(self.round - self._window)
        knows = self.plan.latest.number
        actions: list[NodeAction] = [Acknowledge(sender, self.round, Verdict.OK, knows) for sender, _ in received]
        actions.append(Mixed(self.round, *self._pushed, self._learner.u))
        self.round += 1
        self.stage = Stage.READY
        over = self.round >= self.end
        if over or _due(self.round, self._checkpoint_every):
            actions.append(self._save())
        if not over and _due(self.round, self._evaluate_every):
            actions.append(Evaluate(self.round, self._learner.model()))
        return actions

    def _kept(self, t: int) -> float:
        """The share of its own mass a node keeps in a round: its self-loop, and what the dead are not to have."""
        graph, gone = self.plan.graph(t), self.plan.evicted_later(t)
        # precaution: a round keeps the share of a receiver that is evicted
        back = sum(peer in gone and t >= gone[peer] for peer in graph.out_neighbours(self.name))
        return (1 + back) * graph.weight(self.name)

    def _save(self) -> Save:
        return Save(self.round, self._learner.snapshot(), self.plan)

    def _timed_out(self, t: int) -> list[NodeAction]:
        missing = self.missing()
        if t != self.round or not missing:
            return []
        return self._fail(BarrierTimeout(t, missing))

    # --- peers --------------------------------------------------------------------------------------

    def _received(self, message: Message) -> list[NodeAction]:
        # precaution: a fenced node takes no push of a node that is being evicted
        if message.sender in self.fenced:
            return []  # nothing of it counts until it is decreed what does; no record of its, either
        if self._is_cut(message):
            return [self._answer(message, Verdict.STALE, self.plan.at(message.round).digest)]
        changes = self._learn(message.records)
        verdict = [] if self.stage is Stage.OVER and changes else self._judge(message)
        return [*changes, *verdict, *(self._go_on() if changes else [])]

    def _judge(self, message: Message) -> list[NodeAction]:
        sender, t = message.sender, message.round
        self._knows[sender] = max(self._knows.get(sender, 0), message.number, *(r.number for r in message.records))
        record = self.plan.at(t)
        if message.digest != record.digest:
            # of an old round too: SEEN would say that we have mixed it
            return [self._answer(message, Verdict.STALE, record.digest)]
        graph = self.plan.graph(t)
        if sender not in graph.in_neighbours(self.name):
            raise RemoteProtocolError(f"{sender} pushed round {t} but is no in-neighbour in its graph")
        if message.incarnation != record.incarnations[sender]:
            raise RemoteProtocolError(f"{sender} pushed as incarnation {message.incarnation}, not its own")
        if message.weight != graph.weight(sender):
            raise RemoteProtocolError(f"{sender} pushed with weight {message.weight}, not {graph.weight(sender)}")
        if not all(0 < u < float("inf") for u in message.u):
            raise RemoteProtocolError(f"{sender} pushed with u = {message.u}")
        # precaution: a push that was mixed is not taken again
        if t < self.round:
            return [self._answer(message, Verdict.SEEN)]
        # precaution: a repeat of a push that waits is ignored
        if not self._barrier.missing(t, (sender,)):
            return []  # a repeat of one that waits here: it is answered when it is mixed
        since = self.plan.joined(sender, message.incarnation)  # what an earlier process of its name left is not its
        if self._barrier.buffered_from(sender, since) >= self._window:
            raise RemoteProtocolError(f"{sender} is more than {self._window} unanswered pushes ahead")
        self._barrier.add(t, sender, self._learner.read(t, message.weight, message.u, message.payload))
        self._heard_of(sender, t)
        for peer, begun in message.begun_rounds:
            if self.plan.next_incarnation(peer):  # else it never was a member
                self._heard_of(peer, begun)
        # precaution: a push is acknowledged when it is mixed, not when it arrives
        return self._advance() if self.stage is Stage.WAITING else []

    def _is_cut(self, message: Message) -> bool:
        """Whether the sender is a process that was cut out, and may not know it."""
        # precaution: a push of an evicted incarnation is refused
        return message.incarnation <= self.plan.last_evicted(message.sender)

    def _heard_of(self, peer: str, t: int) -> None:
        self._newest[peer] = max(self._newest.get(peer, -1), t)

    def _answer(self, message: Message, verdict: Verdict, detail: str = "") -> Acknowledge:
        news = tuple(r for r in self.plan.records if r.number > message.number) if verdict is Verdict.STALE else ()
        return Acknowledge(message.sender, message.round, verdict, self.plan.latest.number, detail, news)

    def _acknowledged(self, event: Acknowledged) -> list[NodeAction]:
        push = event.round, event.receiver
        if push not in self._unanswered:
            return []  # answered before, or pushed by a process that had this name before us
        self._knows[event.receiver] = max(self._knows.get(event.receiver, 0), event.knows)
        match event.verdict:
            case Verdict.OK | Verdict.SEEN:
                self._unanswered.remove(push)
                # precaution: an answer is evidence that its sender began the next round
                self._heard_of(event.receiver, event.round + 1)  # it mixed that round, and began the next
                freed = self.stage is Stage.READY and not self.missing()  # one Await per wait, not per answer
                return self._advance() if freed else []
            case Verdict.STALE if self._is_out(event.records):
                return self._evicted()
            case Verdict.STALE:
                ours = self.plan.at(event.round).digest
                return self._fail(DigestMismatch("plan digest", ours, event.detail, event.receiver))
            case Verdict.ERROR:
                refused = f"{event.receiver} refused round {event.round}: {event.detail}"
                return self._fail(RemoteProtocolError(refused))
        assert_never(event.verdict)

    def _is_out(self, records: tuple[Record, ...]) -> bool:
        """Whether records of our run cut this process out of it."""
        return any(self.name in dict(record.evictions) and record.start > self._since for record in records)

    def _evicted(self) -> list[NodeAction]:
        return self._fail(Evicted(f"{self.name} was taken for dead and is no member any more"))

    def _fail(self, error: EdgenodeError) -> list[NodeAction]:
        """Give up, once: the first error is the cause."""
        failed, self.stage = self.stage is Stage.OVER, Stage.OVER
        return [] if failed else [Fail(error)]

    # --- the plan -----------------------------------------------------------------------------------

    def _learn(self, records: tuple[Record, ...]) -> list[NodeAction]:
        """Take records from a peer or the controller, oldest first."""
        if self._is_out(records):
            return self._evicted()
        return [action for record in records for action in self._adopt(record)]

    def _adopt(self, record: Record) -> list[NodeAction]:
        """Take a record from a peer: the next of our chain, one we have, or a breach."""
        known = {r.number: r for r in self.plan.records}
        if record.number in known:
            if known[record.number].digest != record.digest:
                raise RemoteProtocolError(f"two records numbered {record.number}: the plan has forked")
            return []
        if record.number < self.plan.records[0].number:
            return []
        plan = self.plan.extend(record)
        if record.known_by < self.next_round:
            raise RemoteProtocolError(
                f"record {record.number} starts at {record.start}, but round {self.next_round} is next"
            )
        self.plan = plan
        if record.evictions:
            self._cut(record)
        return [PlanChanged(record)]

    def _cut(self, record: Record) -> None:
        """Undo what the dead did after their last round that counts, and go on without them."""
        for dead, last in record.evictions:
            self._unanswered = {(r, peer) for r, peer in self._unanswered if peer != dead}
            # precaution: what an evicted node pushed after its last round is discarded
            self._barrier.discard(dead, after=last)
            self._newest.pop(dead, None)
            if self.stage is Stage.OVER and self.name not in record.names:
                continue  # a leaver that is done: its x is its heir's
            for t in range(max(last, self._since), self.round):
                graph = self.plan.graph(t)
                if dead in graph.out_neighbours(self.name) and self.name not in graph.leaving:
                    # precaution: what was pushed to an evicted node is taken back
                    self._learner.take_back(t, graph.weight(self.name))
        self.fenced = frozenset()

    def _behind_fence(self, event: Fenced) -> list[NodeAction]:
        """Promise, and say where we stand. The last one counts: a link keeps the order, and an old one says nothing.

        The promise needs no disk: a process that crashes comes back as another incarnation, which promised nothing.
        """
        self.fenced = event.evicted
        return [self._answer_fence(event.term, event.ballot, event.evicted)]

    def farewell(self) -> AnswerFence:
        """The answer to every fence to come, of whom and however often; to be asked of one that has finished."""
        return self._answer_fence(0, 0, frozenset(self._newest))

    def _answer_fence(self, term: int, ballot: int, evicted: frozenset[str]) -> AnswerFence:
        begun = self.round - (self.stage in (Stage.READY, Stage.OVER))
        held = tuple((dead, self._newest.get(dead, -1)) for dead in sorted(evicted))
        return AnswerFence(term, ballot, begun, held, self.plan.records)

    def _halt(self, halted: bool) -> list[NodeAction]:
        """Stand still before the next round, or go on; a wait that a pause fell into begins anew."""
        if halted == self.halted:
            return []
        self.halted = halted
        if self.stage is Stage.WAITING and (missing := self.missing()) and not halted:
            return [Await(self.round, missing)]
        return self._go_on()

    def _go_on(self) -> list[NodeAction]:
        """After a fence: whatever held us up may be gone."""
        return self._advance() if self.stage in (Stage.READY, Stage.WAITING) else []

    def _offered(self, record: Record) -> list[NodeAction]:
        """Accept a record if our coming pushes carry it to everyone before it starts; the same twice is fine."""
        if record.digest == self.plan.latest.digest:
            return [self._answer_offer(record, accepted=True)]
        rounds = max(1, reach(self.plan, self.name, self.next_round))  # a lone node may be in its next round
        # precaution: a change starts when everyone can know it
        in_time = record.known_by >= self.next_round + rounds and not self.fenced
        if self.round >= self.end or not in_time:
            return [self._answer_offer(record, accepted=False)]
        return [*self._adopt(record), self._answer_offer(record, accepted=True)]

    def _answer_offer(self, record: Record, accepted: bool) -> AnswerOffer:
        return AnswerOffer(record.number, record.digest, accepted, self.next_round)


def _due(t: int, every: int) -> bool:
    return every > 0 and t % every == 0
