"""One node's numbers under one algorithm spec: what the protocol moves through a round without looking inside.

A round passes three layers:

    Learner       start, compress_update        mix_round (give)              undo_push
    UpdateRule    apply_update, compress        mix
    arithmetic    descend,                      mix_contributions, …,         return_share
                  compress_with_feedback, …     absorb_handoff

The learner knows rounds, blocks and bytes. The update rule knows which vectors an algorithm keeps. The arithmetic is in
`sparse_push` and `update_rules`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, Protocol, TypeVar

import numpy as np

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import DIVERGED, Compressor, Floats, Layout, largest_magnitude
from edgenode.core.algorithm.partial_sums import LastPhase, PhaseResult, check_format, division, weights_sent
from edgenode.core.algorithm.sent_messages import SentMessages
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    LocalUpdate,
    Sent,
    State,
    absorb_handoff,
    debias,
    drop_error,
    give_shares,
    return_share,
)
from edgenode.core.algorithm.trained_model import LazyModel, TrainedModel
from edgenode.core.topology.allreduce import Transfer
from edgenode.errors import LocalProtocolError, RemoteProtocolError

C = TypeVar("C")

_MOST = 10 * DIVERGED  # rounding, and a format of an extension, may add to what a node sends


class Learner(Protocol[C]):
    """The algorithm as the protocol sees it. C is a received contribution in the learner's own form.

    For each round the protocol calls `start` once if it trains, `compress_update` once, `read` for each push received,
    and `mix_round` once. With an overlap it calls `give` after `compress_update`, and `mix_round` some rounds later.
    """

    @property
    def rounds(self) -> int:
        """The number of rounds of the whole run."""
        ...

    @property
    def u(self) -> float:
        """The push-sum weight. The mean over the blocks if each has its own."""
        ...

    def train_until(self, t: int) -> None:
        """Train in all rounds before round t. The rounds that follow training are as many as before."""
        ...

    def trains(self, t: int) -> bool:
        """Return whether round t begins with a local step."""
        ...

    def model(self) -> Floats:
        """z, a new vector [d]."""
        ...

    def start(self) -> Any:
        """Return the model that a local step begins with, in the form that trainers of this learner take."""
        ...

    def look(self, t: int) -> Any:
        """Return z before round t, in the form of ``start``, without beginning a local step.

        It is read before the next event. If round t changes x without training, it is computed at once.
        """
        ...

    def compress_update(
        self, t: int, local_update: Any, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        """Apply the local update and encode the message of round t, once for all receivers.

        Returns the payload, and the push-sum weights of the blocks in it.

        Args:
            local_update: the result of the step that `start` began, in the learner's form. None if the round has none.
            handoff: this is the last message of a leaving node, with all of x uncompressed.
            transfer: the parts to send, if the round belongs to an allreduce. Such rounds change no x, so the phase can
                begin again at any time. z follows from x until all parts of the average are here.
        """
        ...

    def read(self, t: int, weight: float, u: tuple[float, ...], data: bytes, transfer: Transfer | None = None) -> C:
        """Decode a push of round t, which must not be mixed yet. A weight of 1 marks a handoff.

        Args:
            transfer: the parts that its sender sends, if the round belongs to an allreduce.

        Raises:
            RemoteProtocolError: the bytes, the numbers or the count of push-sum weights do not fit the round.
        """
        ...

    def give(self, self_weight: float) -> None:
        """Take what the receivers get out of x and u, in the round of the last `compress_update`."""
        ...

    def mix_round(self, self_weight: float, received: Sequence[C], place: int = 0) -> None:
        """Mix the oldest round that is not mixed, with the contributions in sender order.

        Args:
            self_weight: the share of its message that the node keeps, or 1 if it has given the rest already.
            place: the number of contributions whose senders come before this node.
        """
        ...

    def undo_push(self, t: int, weight: float) -> None:
        """Undo this node's push of round t, which is mixed or given, and not of an allreduce, to one receiver."""
        ...

    def discard_sent(self, t: int) -> None:
        """Free the messages sent before round t. They can no longer be undone."""
        ...

    def snapshot(self, t: int) -> State:
        """The state before round t. It may be the learner's own, and is read before the next event.

        A round that changes x without training begins within the event that ends the round before it. Then the snapshot
        is a copy.
        """
        ...


class VectorLearner:
    """Every algorithm on float32 vectors: an algorithm spec, and the state that its update rule changes.

    A round's random numbers depend on (seed, node, round) at most, so a resumed run repeats them.

    Args:
        weight: the factor of local steps. x has its own memory if it is not 1.
    """

    def __init__(
        self, algorithm_spec: AlgorithmSpec, layout: Layout, state: State, seed: int, node: str, weight: float = 1.0
    ) -> None:
        self.algorithm_spec, self.layout, self.state = algorithm_spec, layout, state
        state.sends = algorithm_spec.rule.sends
        self._entropy = (seed, int.from_bytes(sha256(node.encode()).digest()[:8]))
        self._sent = SentMessages(may_undo=not algorithm_spec.rule.fixed)
        self._unmixed: deque[int] = deque()  # the rounds between compress_update and mix_round
        self._last_phase: LastPhase | None = None
        self._transfer: Transfer | None = None  # of the round between compress_update and mix_round, in an allreduce
        self._trained = TrainedModel(state, algorithm_spec.rule, weight)

    @property
    def rounds(self) -> int:
        return self.algorithm_spec.rounds

    @property
    def u(self) -> float:
        return 1.0 if self._average is not None else float(self.state.u.mean())

    @property
    def _average(self) -> Floats | None:
        """The average of all nodes, at the end of an allreduce."""
        return self._last_phase.average if self._last_phase else None

    @property
    def phase_result(self) -> PhaseResult | None:
        """What the allreduce gave. None before its end, and once it is refused."""
        return self._last_phase.result if self._last_phase else None

    def refuse_average(self) -> None:
        """Keep the model of before the allreduce."""
        self._last_phase = None

    @property
    def own_push(self) -> Sent:
        """The own message of the round that ``mix_round`` mixes next."""
        if not self._unmixed or self._transfer is not None:
            raise LocalProtocolError("no round is between compress_update and mix_round")
        return self._sent.unmixed(self._unmixed[0])

    @property
    def max_bytes(self) -> int:
        """An upper bound of the size of any payload."""
        own, layout = self.algorithm_spec.compressor.format, self.layout.repeated(self.vectors)
        return max(codec.max_bytes(layout), own.max_bytes(layout) if own else 0)

    @property
    def vectors(self) -> int:
        """The number of vectors in a message of a round that mixes."""
        return len(self.state.sends)

    def train_until(self, t: int) -> None:
        self.algorithm_spec = replace(self.algorithm_spec, training_rounds=t)

    def trains(self, t: int) -> bool:
        return self.algorithm_spec.step(t).trains

    def model(self) -> Floats:
        return self._debiased()

    def start(self) -> LazyModel:
        return LazyModel(self._trained.begin_step)

    def look(self, t: int) -> LazyModel:
        model = LazyModel(self._debiased)
        if not self._keeps_still(t):
            model.read()
        return model

    def _debiased(self, out: Floats | None = None) -> Floats:
        """Return z in a new vector, or in ``out`` [d], where x may be. At the end of an allreduce it is the average."""
        return self._trained.read(out) if self._average is None else debias(State(self._average), out)

    def compress_update(
        self, t: int, local_update: LocalUpdate | None, handoff: bool = False, transfer: Transfer | None = None
    ) -> tuple[bytes, tuple[float, ...]]:
        if transfer is not None:
            return self._send_parts(t, transfer)
        rule, step = self.algorithm_spec.rule, self.algorithm_spec.step(t)
        if handoff and rule.fixed:
            raise LocalProtocolError("the members of this run are fixed: a node cannot leave")
        self.state.round = t
        if local_update is not None:
            self._trained.end_step(local_update)
        else:
            self._trained.leave()
        if step.drops_error or handoff:
            drop_error(self.state)
        rng = self._random(t)
        block, compressor = self._encoded_with(t, handoff)
        part, layout = self._part(block)
        payload = rule.compress(part, compressor, layout, rng)
        sent = Sent(payload, part.u.copy(), step.averaging_rate, block)
        data = self._sent.add(t, sent, compressor.format, layout)
        self._unmixed.append(t)
        return data, tuple(part.u.tolist())

    def _random(self, t: int) -> np.random.Generator:
        """The random numbers of a round: the node's own if it trains, or else those of all nodes."""
        seed, node = self._entropy
        # after the first round of an exchange, nodes that hold equal vectors must send equal messages
        return np.random.default_rng((seed, node if self.trains(t) else 0, t))

    def _send_parts(self, t: int, transfer: Transfer) -> tuple[bytes, tuple[float, ...]]:
        compressor = self.algorithm_spec.gossip_compressor
        if transfer.begins:
            self._last_phase = LastPhase(self.state, self.layout, transfer.parts, compressor)
        if self._last_phase is None:
            raise LocalProtocolError(f"round {t} sends parts of no last phase")
        payload, u = self._last_phase.send(transfer, self._random(t))
        self._transfer = transfer
        self._unmixed.append(t)
        return codec.encode(payload, self._layout_of(transfer)), tuple(u.tolist())

    def _layout_of(self, transfer: Transfer) -> Layout:
        return division(self.layout, transfer.parts, len(self.state.u)).layout(transfer)

    def read(
        self, t: int, weight: float, u: tuple[float, ...], data: bytes, transfer: Transfer | None = None
    ) -> Contribution:
        if transfer is None:
            block, compressor = self._encoded_with(t, handoff=weight == 1.0)
            part, layout = self._part(block)
            weights, payload_format = len(part.u), compressor.format
        else:
            layout, payload_format = self._layout_of(transfer), None
            weights = weights_sent(self.layout, len(self.state.u), transfer)
        if len(u) != weights:
            raise RemoteProtocolError(f"{len(u)} push-sum weights in round {t}, expected {weights}")
        payload = codec.decode_as(payload_format, data, layout)
        if transfer is not None:
            check_format(payload, self.algorithm_spec.gossip_compressor)
        largest = largest_magnitude(payload.numbers)
        if not largest < _MOST:
            raise RemoteProtocolError(f"a number of {largest:.4g} in round {t}: a node ends before it sends one")
        return Contribution(weight, np.array(u), payload, transfer)

    def _encoded_with(self, t: int, handoff: bool) -> tuple[int | None, Compressor]:
        """The block and the compressor of a message of round t. A handoff is everything, uncompressed."""
        step = self.algorithm_spec.step(t)
        return (None, UNCOMPRESSED) if handoff else (step.block, step.compressor)

    def _part(self, block: int | None) -> tuple[State, Layout]:
        """The block of the state and the layout of its message, or all of both."""
        return self.state.part(block), self.layout.part(block, len(self.state.u)).repeated(self.vectors)

    def give(self, self_weight: float) -> None:
        own = self._sent.unmixed(self._unmixed[-1])
        give_shares(self.state.part(own.block), own, self_weight)
        self._trained.leave_if_biased()

    def mix_round(self, self_weight: float, received: Sequence[Contribution], place: int = 0) -> None:
        if not self._unmixed:
            raise LocalProtocolError("mix_round before compress_update")
        t = self._unmixed.popleft()
        if self._transfer is not None and self._last_phase is not None:
            self._last_phase.mix(self._transfer, [(c.transfer, c.payload, c.u) for c in received if c.transfer])
            self._transfer = None
            return
        self.state.round, own = t, replace(self._sent.unmixed(t), place=place)
        exchanged = [c for c in received if c.weight != 1.0]
        self.algorithm_spec.rule.mix(self.state.part(own.block), own, self_weight, exchanged)
        for contribution in received:
            if contribution.weight == 1.0:
                absorb_handoff(self.state, contribution)
        self._sent.end(t)
        self._trained.leave_if_biased()

    def undo_push(self, t: int, weight: float) -> None:
        if self.algorithm_spec.rule.fixed:
            raise LocalProtocolError("the members of this run are fixed: a push cannot be undone")
        self._trained.keep_start()
        own = self._sent.to_undo(t)
        return_share(self.state.part(own.block), own, weight)
        self._trained.leave_if_biased()

    def discard_sent(self, t: int) -> None:
        self._sent.discard(t)

    def snapshot(self, t: int) -> State:
        if self._average is not None:
            # zeros_like would write them. These take no memory.
            zeros = {name: np.zeros(self.layout.size, np.float32) for name in self.state.vectors}
            return State.of({**zeros, "x": self._average}, np.ones_like(self.state.u))
        return self.state if self._keeps_still(t) else self.state.copy()

    def _keeps_still(self, t: int) -> bool:
        """Return whether the state before round t is still there when the actions of its event are performed."""
        return t >= self.rounds or self.trains(t) or self.algorithm_spec.sums
