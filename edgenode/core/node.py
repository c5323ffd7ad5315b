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

from edgenode.core.barrier import Barrier
from edgenode.core.learner import Learner
from edgenode.core.messages import (
    Acknowledge,
    Acknowledged,
    AnswerOffer,
    Await,
    Evaluate,
    Fail,
    Finish,
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
from edgenode.core.plan import Plan, Record, reach
from edgenode.errors import (
    BarrierTimeout,
    DigestMismatch,
    EdgenodeError,
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
    """

    def __init__(
        self,
        name: str,
        plan: Plan,
        learner: Learner[Any],
        round: int = 0,
        window: int = 8,
        evaluate_every: int = 0,
        checkpoint_every: int = 0,
    ) -> None:
        self.name, self.plan, self.round = name, plan, round
        self.stage = Stage.READY
        self._learner = learner
        self._window = window
        self._evaluate_every, self._checkpoint_every = evaluate_every, checkpoint_every
        self._barrier: Barrier[Any] = Barrier()
        self._unanswered: set[tuple[int, str]] = set()
        self._pushed: tuple[int, int] = (0, 0)  # messages and payload bytes of the current round
        self._knows: dict[str, int] = dict.fromkeys(plan.latest.names, plan.records[0].number)
        self._incarnation = {m.node: m.incarnation for m in plan.latest.members}[name]

    @property
    def end(self) -> int:
        """The round before which the run is over: all rounds done, or stopped by a record."""
        stops = [r.end for r in self.plan.records if r.end is not None]
        return min([self._learner.rounds, *stops])

    @property
    def next_round(self) -> int:
        """The first round this node has not pushed yet."""
        return self.round + (self.stage is Stage.WAITING)

    def missing(self) -> tuple[str, ...]:
        """The peers that hold this node up: in-neighbours to hear from, or receivers that owe an answer."""
        if self.stage is Stage.WAITING:
            return self._barrier.missing(self.round, self.plan.graph(self.round).in_neighbours(self.name))
        if self.stage is Stage.READY:
            answered_to = self.round if self.round >= self.end else self.round - self._window + 1
            return tuple(sorted({peer for r, peer in self._unanswered if r < answered_to}))
        return ()

    def start(self) -> list[NodeAction]:
        """The first actions: a checkpoint of the beginning, and the first round."""
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
            case TimedOut(round):
                return self._timed_out(round)
        assert_never(event)

    # --- rounds -------------------------------------------------------------------------------------

    def _advance(self) -> list[NodeAction]:
        """Go as far as possible without another event."""
        actions: list[NodeAction] = []
        while True:
            match self.stage:
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
        return [*self._emit(event.displacement), *self._advance()]

    def _emit(self, displacement: Any) -> list[NodeAction]:
        u = self._learner.u
        payload = self._learner.emit(self.round, displacement)
        graph, record = self.plan.graph(self.round), self.plan.at(self.round)
        receivers = graph.out_neighbours(self.name)
        actions: list[NodeAction] = []
        for peer in receivers:
            news = tuple(r for r in self.plan.records if r.number > self._knows.get(peer, record.number))
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
        self._learner.mix(self.plan.graph(self.round).weight(self.name), [c for _, c in received])
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

    def _save(self) -> Save:
        return Save(self.round, self._learner.snapshot(), self.plan)

    def _timed_out(self, round: int) -> list[NodeAction]:
        missing = self.missing()
        if round != self.round or not missing:
            return []
        return self._fail(BarrierTimeout(round, missing))

    # --- peers --------------------------------------------------------------------------------------

    def _received(self, message: Message) -> list[NodeAction]:
        changes = [action for record in message.records for action in self._adopt(record)]
        sender, round = message.sender, message.round
        self._knows[sender] = max(self._knows.get(sender, 0), message.number, *(r.number for r in message.records))
        record = self.plan.at(round)
        if message.digest != record.digest:  # of an old round too: SEEN would say that we have mixed it
            return [*changes, self._answer(message, Verdict.STALE, record.digest)]
        graph = self.plan.graph(round)
        if sender not in graph.in_neighbours(self.name):
            raise RemoteProtocolError(f"{sender} pushed round {round} but is no in-neighbour in its graph")
        if message.incarnation != {m.node: m.incarnation for m in record.members}[sender]:
            raise RemoteProtocolError(f"{sender} pushed as incarnation {message.incarnation}, not its own")
        if message.weight != graph.weight(sender):
            raise RemoteProtocolError(f"{sender} pushed with weight {message.weight}, not {graph.weight(sender)}")
        if not 0 < message.u < float("inf"):
            raise RemoteProtocolError(f"{sender} pushed with u = {message.u}")
        if round < self.round:
            return [*changes, self._answer(message, Verdict.SEEN)]
        if not self._barrier.missing(round, (sender,)):
            return changes  # a repeat of one that waits here: it is answered when it is mixed
        if self._barrier.held_from(sender) >= self._window:
            raise RemoteProtocolError(f"{sender} is more than {self._window} unanswered pushes ahead")
        self._barrier.hold(round, sender, self._learner.read(message.weight, message.u, message.payload))
        return [*changes, *(self._advance() if self.stage is Stage.WAITING else [])]

    def _answer(self, message: Message, verdict: Verdict, detail: str = "") -> Acknowledge:
        return Acknowledge(message.sender, message.round, verdict, self.plan.latest.number, detail)

    def _acknowledged(self, event: Acknowledged) -> list[NodeAction]:
        push = event.round, event.receiver
        if push not in self._unanswered:
            return []  # answered before, or pushed by a process that had this name before us
        self._knows[event.receiver] = max(self._knows.get(event.receiver, 0), event.knows)
        match event.verdict:
            case Verdict.OK | Verdict.SEEN:
                self._unanswered.remove(push)
                freed = self.stage is Stage.READY and not self.missing()  # one Await per wait, not per answer
                return self._advance() if freed else []
            case Verdict.STALE:
                ours = self.plan.at(event.round).digest
                return self._fail(DigestMismatch("plan digest", ours, event.detail, event.receiver))
            case Verdict.ERROR:
                refused = f"{event.receiver} refused round {event.round}: {event.detail}"
                return self._fail(RemoteProtocolError(refused))
        assert_never(event.verdict)

    def _fail(self, error: EdgenodeError) -> list[NodeAction]:
        """Give up, once: the first error is the cause."""
        failed, self.stage = self.stage is Stage.OVER, Stage.OVER
        return [] if failed else [Fail(error)]

    # --- the plan -----------------------------------------------------------------------------------

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
        if record.start < self.next_round:
            raise RemoteProtocolError(
                f"record {record.number} starts at {record.start}, but round {self.next_round} is next"
            )
        self.plan = plan
        return [PlanChanged(record)]

    def _offered(self, record: Record) -> list[NodeAction]:
        """Accept a record if our coming pushes carry it to everyone before it starts; the same twice is fine."""
        if record.digest == self.plan.latest.digest:
            return [self._answer_offer(record, accepted=True)]
        rounds = max(1, reach(self.plan, self.name, self.next_round))  # a lone node may be in its next round
        in_time = record.start >= self.next_round + rounds
        if self.round >= self.end or not in_time:
            return [self._answer_offer(record, accepted=False)]
        return [*self._adopt(record), self._answer_offer(record, accepted=True)]

    def _answer_offer(self, record: Record, accepted: bool) -> AnswerOffer:
        return AnswerOffer(record.number, record.digest, accepted, self.next_round)


def _due(round: int, every: int) -> bool:
    return every > 0 and round % every == 0
