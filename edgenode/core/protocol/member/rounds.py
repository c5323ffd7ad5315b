"""The rounds of a node: train, compress and push, wait at the barrier, mix (Algorithm 1).

READY -> (TRAINING ->) WAITING -> READY, until the run is over. A round of SCSP's last phase does not train. With an
overlap, what is waited for and mixed is an earlier round than the one that was pushed last: one, none, or several.
"""

from __future__ import annotations

import math
from typing import Any

from edgenode.core.protocol.events import (
    Answer,
    Await,
    Evaluate,
    Finish,
    Mixed,
    NodeAction,
    Publish,
    Push,
    Report,
    Save,
    Train,
    Trained,
)
from edgenode.core.protocol.member.member_state import MemberState, Stage
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import Accusation
from edgenode.core.protocol.plan.last_phase import end_of, is_inside, phase_at, transfer
from edgenode.errors import BarrierTimeout, LocalProtocolError


class Rounds:
    """Takes a node from round to round.

    Args:
        evaluate_every, checkpoint_every, publish_every: in rounds; 0 for only at the end.
    """

    def __init__(self, state: MemberState, evaluate_every: int, checkpoint_every: int, publish_every: int) -> None:
        self._state = state
        self._evaluate_every, self._checkpoint_every = evaluate_every, checkpoint_every
        self._publish_every = publish_every
        self._pushed: dict[int, tuple[int, int]] = {}  # messages and payload bytes of the rounds in flight
        self._settled = -1  # the last round before which all that is due was done

    def advance(self) -> list[NodeAction]:
        """Go as far as possible without another event."""
        state = self._state
        actions: list[NodeAction] = []
        while True:
            match state.stage:
                case Stage.READY if state.round < state.mixed_before:  # a record that has come drains this round
                    actions += self._settle()
                # precaution: a fenced node begins no round
                # precaution: a paused node begins no round
                case Stage.READY if state.fenced or (state.halted and state.next_round < state.end):
                    return actions
                case Stage.READY if missing := state.missing():
                    return [*actions, Await(state.next_round, missing)]
                case Stage.READY if state.next_round >= state.end:
                    state.stage = Stage.OVER
                    complete = state.round >= end_of(state.plan, state.learner.rounds)
                    return [*actions, Finish(state.round, state.learner.look(state.round), complete, state.handed_to)]
                case Stage.READY if state.learner.trains(state.next_round):
                    state.stage = Stage.TRAINING
                    return [*actions, Train(state.next_round, state.learner.start())]
                case Stage.READY:
                    actions += self._push(None)
                case Stage.WAITING if not state.missing():
                    actions += self._mix()
                case _:
                    return actions

    def trained(self, event: Trained) -> list[NodeAction]:
        state = self._state
        if state.stage is Stage.OVER:
            return []  # the run has failed
        if state.stage is not Stage.TRAINING or event.round != state.next_round:
            where = f"{state.stage.name} in round {state.awaited_round}"
            raise LocalProtocolError(f"trained round {event.round} while {where}")
        return [*self._push(event.local_update), *self.advance()]

    def _push(self, local_update: Any) -> list[NodeAction]:
        """Compress once, and push to every out-neighbour that is not evicted (lines 5 to 7)."""
        state, t = self._state, self._state.next_round
        graph, record = state.plan.graph(t), state.plan.at(t)
        leaves = state.name in graph.leaving
        parts = transfer(state.plan, t, state.name)
        payload, u = state.learner.compress_update(t, local_update, leaves, parts)
        if state.lag.overlap and not leaves and parts is None:  # an allreduce changes no x
            state.learner.give(self._kept(t))
        # precaution: a leaver hands on which rounds the others have begun
        begun_rounds = tuple(sorted(state.peers.begun.items())) if leaves else ()
        evicted = state.plan.evicted_later(t)
        receivers = [peer for peer in graph.out_neighbours(state.name) if peer not in evicted]
        state.handed_to = receivers[0] if leaves and receivers else ""
        actions: list[NodeAction] = []
        for peer in receivers:
            message = Message(
                sender=state.name,
                incarnation=state.incarnation,
                round=t,
                number=record.number,
                digest=record.digest,
                weight=graph.weight(state.name, peer),
                u=u,
                payload=payload,
                records=state.peers.news_for(peer, state.plan),
                begun_rounds=begun_rounds,
            )
            state.peers.pushed(peer, t)
            actions.append(Push(peer, message))
        self._pushed[t] = (len(receivers), len(payload) * len(receivers))
        state.next_round += 1
        return [*actions, *self._settle()]

    def _mix(self) -> list[NodeAction]:
        state = self._state
        received = state.barrier.release(state.round)
        actions: list[NodeAction] = []
        if state.name not in state.plan.graph(state.round).leaving:  # a leaver's state has moved to its hand-off target
            contributions, accusations = self._inspect(received)
            # with an overlap, what the others get has left x already
            kept = 1.0 if state.lag.overlap else self._kept(state.round)
            place = sum(sender < state.name for sender, _ in received)
            state.learner.mix_round(kept, contributions, place)
            actions += map(Report, accusations)
        state.kept_from = state.next_round - 1 - state.window
        state.learner.discard_sent(state.kept_from)
        ack = Ack(state.round, Verdict.OK, state.plan.latest.number)
        actions += [Answer(sender, ack) for sender, _ in received]
        actions.append(Mixed(state.round, *self._pushed.pop(state.round), state.learner.u))
        state.round += 1
        return [*actions, *self._settle()]

    def _settle(self) -> list[NodeAction]:
        """Wait for a round that has to be mixed before the next one begins. If there is none, do what is due now."""
        state, t = self._state, self._state.next_round
        if state.round < state.mixed_before:
            state.stage = Stage.WAITING
            missing = state.missing()
            return [Await(state.round, missing)] if missing else []
        state.stage = Stage.READY
        over = t >= state.end
        if t == self._settled and not over:
            return []  # a record drained this round after what was due had been done
        self._settled = t
        if not over and is_inside(state.plan, t):
            return []  # the model is what it was when the phase began
        actions: list[NodeAction] = []
        if over or _due(t, self._checkpoint_every):
            actions.append(self.save())
        if not over and _due(t, self._evaluate_every):
            actions.append(Evaluate(t, state.learner.look(t)))
        if not over and _due(t, self._publish_every):
            actions.append(Publish(t, state.learner.model()))
        return actions

    def _inspect(self, received: list[tuple[str, Any]]) -> tuple[list[Any], list[Accusation]]:
        """Return the contributions to mix in a round, and the members with inexplicable ones."""
        state, t = self._state, self._state.round
        # parts of models are no message of one model, and what is left out of a sum is left out of the average
        if state.alarm is None or phase_at(state.plan, t):
            return [c for _, c in received], []
        incarnations = state.plan.at(t).incarnations
        known = [(sender, incarnations.get(sender, 0), c) for sender, c in received]
        contributions, suspicions = state.alarm.inspect(known, len(incarnations))
        return contributions, [Accusation(s.member, incarnations.get(s.member, 0), t, s.reason) for s in suspicions]

    def _kept(self, t: int) -> float:
        """The share of its own mass that a node keeps in a round: its self-loop, and what the evicted do not get."""
        state = self._state
        graph, evicted = state.plan.graph(t), state.plan.evicted_later(t)
        # precaution: a round keeps the share of a receiver that is evicted
        back = [peer for peer in graph.out_neighbours(state.name) if peer in evicted and t >= evicted[peer]]
        return math.fsum([graph.weight(state.name), *(graph.weight(state.name, peer) for peer in back)])

    def save(self) -> Save:
        state = self._state
        return Save(state.round, state.learner.snapshot(state.round), state.plan)

    def timed_out(self, t: int) -> list[NodeAction]:
        state = self._state
        missing = state.missing()
        if t != state.awaited_round or not missing:
            return []
        return state.fail(BarrierTimeout(t, missing))

    def halt(self, halted: bool) -> list[NodeAction]:
        """Stand still before the next round, or continue. A wait that a pause interrupted begins again."""
        state = self._state
        if halted == state.halted:
            return []
        state.halted = halted
        if state.stage is Stage.WAITING and (missing := state.missing()) and not halted:
            return [Await(state.round, missing)]
        return self.resume()

    def resume(self) -> list[NodeAction]:
        """Continue if the node can: what held it up may be gone."""
        return self.advance() if self._state.stage in (Stage.READY, Stage.WAITING) else []


def _due(t: int, every: int) -> bool:
    return every > 0 and t % every == 0
