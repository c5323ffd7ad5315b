"""The rounds of a node: train, compress and push, wait at the barrier, mix (Algorithm 1).

READY -> (TRAINING ->) WAITING -> READY, until the run is over. A round of SCSP's last phase does not train.
"""

from __future__ import annotations

from typing import Any

from edgenode.core.protocol.events import (
    Answer,
    Await,
    Evaluate,
    Finish,
    Mixed,
    NodeAction,
    Push,
    Save,
    Train,
    Trained,
)
from edgenode.core.protocol.member_state import MemberState, Stage
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.errors import BarrierTimeout, LocalProtocolError


class Rounds:
    """Takes a node from round to round.

    Args:
        evaluate_every, checkpoint_every: in rounds; 0 for only at the end.
    """

    def __init__(self, state: MemberState, evaluate_every: int, checkpoint_every: int) -> None:
        self._state = state
        self._evaluate_every, self._checkpoint_every = evaluate_every, checkpoint_every
        self._pushed: tuple[int, int] = (0, 0)  # messages and payload bytes of the current round

    def advance(self) -> list[NodeAction]:
        """Go as far as possible without another event."""
        actions: list[NodeAction] = []
        while True:
            match self._state.stage:
                # precaution: a fenced node begins no round
                # precaution: a paused node begins no round
                case Stage.READY if self._state.fenced or (self._state.halted and self._state.round < self._state.end):
                    return actions
                case Stage.READY if missing := self._state.missing():
                    return [*actions, Await(self._state.round, missing)]
                case Stage.READY if self._state.round >= self._state.end:
                    self._state.stage = Stage.OVER
                    complete = self._state.round >= self._state.learner.rounds
                    return [*actions, Finish(self._state.round, self._state.learner.model(), complete)]
                case Stage.READY if self._state.learner.trains(self._state.round):
                    self._state.stage = Stage.TRAINING
                    return [*actions, Train(self._state.round, self._state.learner.model())]
                case Stage.READY:
                    actions += self._push(None)
                case Stage.WAITING if not self._state.missing():
                    actions += self._mix()
                case _:
                    return actions

    def trained(self, event: Trained) -> list[NodeAction]:
        if self._state.stage is Stage.OVER:
            return []  # the run failed meanwhile
        if self._state.stage is not Stage.TRAINING or event.round != self._state.round:
            raise LocalProtocolError(
                f"trained round {event.round} while {self._state.stage.name} in round {self._state.round}"
            )
        return [*self._push(event.local_update), *self.advance()]

    def _push(self, local_update: Any) -> list[NodeAction]:
        """Compress once, and push to every out-neighbour that is not evicted (lines 5 to 7)."""
        graph, record = self._state.plan.graph(self._state.round), self._state.plan.at(self._state.round)
        leaves = self._state.name in graph.leaving
        payload, u = self._state.learner.emit(self._state.round, local_update, whole=leaves)
        # precaution: a leaver hands on which rounds the others have begun
        begun_rounds = tuple(sorted(self._state.peers.begun.items())) if leaves else ()
        evicted = self._state.plan.evicted_later(self._state.round)
        receivers = [peer for peer in graph.out_neighbours(self._state.name) if peer not in evicted]
        actions: list[NodeAction] = []
        for peer in receivers:
            message = Message(
                sender=self._state.name,
                incarnation=self._state.incarnation,
                round=self._state.round,
                number=record.number,
                digest=record.digest,
                weight=graph.weight(self._state.name),
                u=u,
                payload=payload,
                records=self._state.peers.news_for(peer, self._state.plan),
                begun_rounds=begun_rounds,
            )
            self._state.peers.pushed(peer, self._state.round)
            actions.append(Push(peer, message))
        self._pushed = (len(receivers), len(payload) * len(receivers))
        self._state.stage = Stage.WAITING
        if missing := self._state.missing():
            actions.append(Await(self._state.round, missing))
        return actions

    def _mix(self) -> list[NodeAction]:
        received = self._state.barrier.release(self._state.round)
        if (
            self._state.name not in self._state.plan.graph(self._state.round).leaving
        ):  # a leaver's state has moved to its hand-off target
            self._state.learner.mix(self._kept(self._state.round), [c for _, c in received])
        self._state.learner.forget(self._state.round - self._state.window)
        ack = Ack(self._state.round, Verdict.OK, self._state.plan.latest.number)
        actions: list[NodeAction] = [Answer(sender, ack) for sender, _ in received]
        actions.append(Mixed(self._state.round, *self._pushed, self._state.learner.u))
        self._state.round += 1
        self._state.stage = Stage.READY
        over = self._state.round >= self._state.end
        if over or _due(self._state.round, self._checkpoint_every):
            actions.append(self.save())
        if not over and _due(self._state.round, self._evaluate_every):
            actions.append(Evaluate(self._state.round, self._state.learner.model()))
        return actions

    def _kept(self, t: int) -> float:
        """The share of its own mass that a node keeps in a round: its self-loop, and what the evicted do not get."""
        graph, evicted = self._state.plan.graph(t), self._state.plan.evicted_later(t)
        # precaution: a round keeps the share of a receiver that is evicted
        back = sum(peer in evicted and t >= evicted[peer] for peer in graph.out_neighbours(self._state.name))
        return (1 + back) * graph.weight(self._state.name)

    def save(self) -> Save:
        return Save(self._state.round, self._state.learner.snapshot(), self._state.plan)

    def timed_out(self, t: int) -> list[NodeAction]:
        missing = self._state.missing()
        if t != self._state.round or not missing:
            return []
        return self._state.fail(BarrierTimeout(t, missing))

    def halt(self, halted: bool) -> list[NodeAction]:
        """Stand still before the next round, or continue. A wait that a pause interrupted begins again."""
        if halted == self._state.halted:
            return []
        self._state.halted = halted
        if self._state.stage is Stage.WAITING and (missing := self._state.missing()) and not halted:
            return [Await(self._state.round, missing)]
        return self.resume()

    def resume(self) -> list[NodeAction]:
        """What held this node up may be gone."""
        return self.advance() if self._state.stage in (Stage.READY, Stage.WAITING) else []


def _due(t: int, every: int) -> bool:
    return every > 0 and t % every == 0
