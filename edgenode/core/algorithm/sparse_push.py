"""Algorithm 1 (Sparse-Push) and the gossip step of Algorithm 2, as arithmetic on the state of one node.

    z      = x / u                                          line 10   debias
    x-hat  = x + local update                               line 4    descend
    v      = x-hat + error                                  line 5    compress_with_feedback
    error  = v - C[v]                                       line 6
    x      = x-hat + eta * sum_j (W_ij - I_ij) C[v_j]       line 9    mix_contributions, and u alike

``x`` is the accumulator, ``u`` the push-sum weight and ``error`` the paper's delta. The de-biased model z is trained
and evaluated. Vectors are float32 [d], and u is float64 [blocks].

Invariant: mixing does not change the sums of x and u over all nodes. Column j of W sums to 1, and node j itself
subtracts exactly the payload and u that its receivers add.

In the rolling exchange a round exchanges one block of the vector. These functions then receive that block as a state of
its own, which is a view (``State.part``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload, block_bounds
from edgenode.core.topology.allreduce import Transfer

Weights = NDArray[np.float64]
_CHUNK = 65_536
_FLOAT32_ONE = 2.0**-25  # what is closer to 1 is 1 as a float32


def _none() -> Floats:
    return np.zeros(0, dtype=np.float32)


def _one() -> Weights:
    return np.ones(1)


@dataclass(slots=True)
class State:
    """The state that one node keeps from round to round.

    Attributes:
        x: the accumulator, changed in place. Between the local update and mixing it is the paper's x-hat.
        error: delta, the compression error. Empty if the algorithm has none.
        u: the push-sum weights, one per block of x, 1 at the start.
        kept: the other vectors of the update rule, by name.
        round: the number of the round that an update rule computes.
        sends: the names of the vectors in a message. The learner sets both, and neither is stored.
    """

    x: Floats
    error: Floats = field(default_factory=_none)
    u: Weights = field(default_factory=_one)
    kept: dict[str, Floats] = field(default_factory=dict)
    round: int = 0
    sends: tuple[str, ...] = ("x",)

    @classmethod
    def initial(cls, model: Floats, keeps: Sequence[str] = ("error",), blocks: int = 1) -> State:
        """Input of Algorithm 1: x = z = the common model, u = 1, and zeros for the vectors named in ``keeps``."""
        zeros = {name: np.zeros(len(model), dtype=np.float32) for name in keeps}
        return cls.of({"x": model.astype(np.float32, copy=True), **zeros}, np.ones(blocks))

    @classmethod
    def of(cls, vectors: Mapping[str, Floats], u: Weights) -> State:
        """The inverse of ``vectors``."""
        kept = dict(vectors)
        return cls(kept.pop("x"), kept.pop("error", _none()), u, kept)

    @property
    def is_unbiased(self) -> bool:
        """Return whether z is x: every u is 1 in float32, in which z is computed."""
        if len(self.u) == 1:
            return bool(abs(self.u[0] - 1) < _FLOAT32_ONE)
        return bool((np.abs(self.u - 1) < _FLOAT32_ONE).all())

    @property
    def vectors(self) -> dict[str, Floats]:
        """All vectors of size d, by name."""
        return {"x": self.x, **({"error": self.error} if len(self.error) else {}), **self.kept}

    @property
    def sent(self) -> list[Floats]:
        """The vectors in a message, in their order."""
        return [self.x if name == "x" else self.kept[name] for name in self.sends]

    def copy(self) -> State:
        """A copy that shares nothing with this state."""
        return State.of({name: vector.copy() for name, vector in self.vectors.items()}, self.u.copy())

    def part(self, block: int | None) -> State:
        """One block, or everything if ``block`` is None. Its vectors are views, so changing it changes this state."""
        if block is None:
            return self
        where = slice(*block_bounds(len(self.x), len(self.u))[block : block + 2])
        part = State.of({name: vector[where] for name, vector in self.vectors.items()}, self.u[block : block + 1])
        part.round, part.sends = self.round, self.sends
        return part


@dataclass(frozen=True)
class Contribution:
    """A push of one in-neighbour: the weight W[receiver, sender] that the sender chose, its u and its payload.

    Attributes:
        transfer: the parts of the model that it has, in an allreduce. Its weight does not count there.
    """

    weight: float
    u: Weights
    payload: Payload
    transfer: Transfer | None = None


@dataclass(frozen=True)
class Sent:
    """A message that this node has sent, with what is needed to mix it, and to undo it.

    Attributes:
        u: the push-sum weights that were pushed with it.
        averaging_rate: eta of its round.
        block: the block of the model that it encodes, or None for all of it.
        place: the number of contributions before it in sender order, when it is mixed.
    """

    payload: Payload
    u: Weights
    averaging_rate: float
    block: int | None = None
    place: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LocalUpdate:
    """The result of a local step: ``vector - z``, or ``vector`` if that is the difference already.

    Attributes:
        vector: float32 [d], the model after the step. It may be the one that the trainer goes on to train, so it is
            read before that.
        is_difference: ``vector`` is the change of z instead.
    """

    vector: Floats
    is_difference: bool = False


def debias(state: State, out: Floats | None = None) -> Floats:
    """z = x / u (line 10), with the u of each block. A new vector, or ``out`` [d]."""
    z = np.empty_like(state.x) if out is None else out
    for where, u in _chunks(state):
        np.divide(state.x[where], u, out=z[where])
    return z


def _chunks(state: State) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The parts of a vector, each of which fits a cache, with their u: one of each entry, or [1] if all are equal."""
    size, weights = len(state.x), state.u.astype(np.float32)
    if (weights == weights[0]).all():
        weights = weights[:1]  # as if there were no blocks
    bounds = block_bounds(size, len(weights)).tolist()
    step = max(1, (_CHUNK - 1) * len(weights) // max(1, size))  # in blocks: a part is several small ones
    for first in range(0, len(weights), step):
        part, u = bounds[first : first + step + 1], weights[first : first + step]
        if len(u) > 1:
            yield slice(part[0], part[-1]), np.repeat(u, np.diff(part))
            continue
        for begin in range(part[0], part[1], _CHUNK):
            yield slice(begin, min(begin + _CHUNK, part[1])), u


def differences(
    state: State, update: LocalUpdate, z: Floats | None = None, weight: float = 1.0
) -> Iterator[tuple[slice, Floats]]:
    """Yield the change of a local step, part by part: its slice, and its numbers, which are valid until the next part.

    No vector of size d is built, and each part of x is read just before it can be changed.

    Args:
        z: the vector before the step. Without it, x / u.
        weight: the factor of the step.
    """
    scratch = np.empty(min(_CHUNK, len(state.x)), dtype=np.float32)
    for where, u in _chunks(state):
        part, room = update.vector[where], scratch[: where.stop - where.start]
        if not update.is_difference:
            before = state.x[where] if z is None else z[where]
            if z is None and not (len(u) == 1 and u[0] == 1):
                before = np.divide(before, u, out=room)
            part = np.subtract(part, before, out=room)
        yield where, part if weight == 1 else np.multiply(part, np.float32(weight), out=room)


def descend(state: State, local_update: Floats) -> None:
    """Line 4: x-hat = x + local update. The local update is the optimiser's step on z, not scaled by u."""
    state.x += local_update


def compress_with_feedback(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """Lines 5 and 6: v = x-hat + error, C[v], error = v - C[v].

    ``error`` is computed from the payload as receivers decode it, so that it absorbs the rounding of values too. With a
    lossless compressor the state has no error.
    """
    if len(state.sends) > 1:
        return _compress_several(state, compressor, layout, rng)
    if not len(state.error):
        return compressor(state.x, layout, rng)
    corrected = state.error
    corrected += state.x
    payload = compressor(corrected, layout, rng)
    payload.add_to(corrected, -1.0)
    return payload


def _compress_several(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """The same for a message of several vectors, each of which has an error of its own."""
    errors = [state.error, *(state.kept[error_of(name)] for name in state.sends[1:])] if len(state.error) else []
    vectors = state.sent
    if not errors:
        return compressor(np.concatenate(vectors), layout, rng)
    for error, vector in zip(errors, vectors, strict=True):
        np.add(error, vector, out=error)
    payload = compressor(np.concatenate(errors), layout, rng)
    payload.add_each(errors, -1.0)
    return payload


def error_of(name: str) -> str:
    """The name of the compression error of a vector other than x."""
    return f"error.{name}"


def drop_error(state: State) -> None:
    """Algorithm 2 gossips x itself and has no error. Mass is not lost, because all of it is in x."""
    state.error[:] = 0
    for name in state.sends:
        if error_of(name) in state.kept:
            state.kept[error_of(name)][:] = 0


def mix_contributions(state: State, own: Sent, self_weight: float, received: Iterable[Contribution]) -> None:
    """Line 9: x = x-hat + eta * sum_j (W_ij - I_ij) C[v_j], and the same for u.

    1. The self term uses the node's own *compressed* message. With x-hat it would create or destroy mass.
    2. It also uses the u that was pushed. The state's u may have changed since, when an older push was undone.
    3. Contributions must be in sender order. Float sums depend on the order, and must be bit-identical in every replay.
    """
    give_shares(state, own, self_weight)
    for contribution in received:
        scale = own.averaging_rate * contribution.weight
        contribution.payload.add_each(state.sent, scale)
        state.u += scale * contribution.u


def give_shares(state: State, own: Sent, self_weight: float) -> None:
    """The self term of line 9: what the receivers get leaves x and u. Nothing does at a weight of 1."""
    given = own.averaging_rate * (1.0 - self_weight)
    own.payload.add_each(state.sent, -given)
    state.u -= given * own.u


def absorb_handoff(state: State, contribution: Contribution) -> None:
    """Add a leaving node's last push: all of its x and u, not scaled by the averaging rate."""
    contribution.payload.add_each(state.sent, 1.0)
    state.u += contribution.u


def return_share(state: State, own: Sent, weight: float) -> None:
    """Add back one receiver's share of a message. The receiver was evicted, and its mass does not count."""
    own.payload.add_each(state.sent, own.averaging_rate * weight)
    state.u += own.averaging_rate * weight * own.u
