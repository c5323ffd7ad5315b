"""Algorithm 1 (Sparse-Push) and the gossip step of Algorithm 2, for one node. Arithmetic and nothing else.

The names are the paper's in words: ``x`` the accumulator, ``u`` the push-sum weight, ``error`` delta, and the
de-biased model z = x / u is what trains and is evaluated. Vectors are float32 [d], u is float64 [blocks].

All that a node carries for any algorithm is one ``State``. Where a round exchanges one block of the vector only
(the rolling exchange), these functions are given that block as a state of its own: ``State.part``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload, block_bounds

Weights = NDArray[np.float64]


def _none() -> Floats:
    return np.zeros(0, dtype=np.float32)


def _one() -> Weights:
    return np.ones(1)


@dataclass(slots=True)
class State:
    """What one node carries from round to round; a vector that its algorithm does not need is empty.

    Attributes:
        x: the accumulator, changed in place; between ``emit`` and ``mix`` it is the paper's x-hat.
        error: delta, what compression has held back so far.
        u: the push-sum weights, one per block of x, 1 at the start.
        replica: what the others know of this node, where differences to it are sent (CHOCO-SGD).
        gathered: the weighted sum of the own replica and those of the in-neighbours (CHOCO-SGD).
        history: x less where the last local step alone would have led, where that is corrected for (D2).
    """

    x: Floats
    error: Floats = field(default_factory=_none)
    u: Weights = field(default_factory=_one)
    replica: Floats = field(default_factory=_none)
    gathered: Floats = field(default_factory=_none)
    history: Floats = field(default_factory=_none)

    @classmethod
    def initial(cls, model: Floats, keeps: Sequence[str] = ("error",), blocks: int = 1) -> State:
        """Input of Algorithm 1: x = z = the common model, u = 1, and zeros for what else the algorithm ``keeps``."""
        zeros = {name: np.zeros(len(model), dtype=np.float32) for name in keeps}
        return cls(model.astype(np.float32, copy=True), u=np.ones(blocks), **zeros)

    @property
    def vectors(self) -> dict[str, Floats]:
        """All vectors of size d, by name."""
        named = {name: getattr(self, name) for name in ("x", "error", "replica", "gathered", "history")}
        return {name: vector for name, vector in named.items() if name == "x" or len(vector)}

    def copy(self) -> State:
        """A state of its own."""
        return State(u=self.u.copy(), **{name: vector.copy() for name, vector in self.vectors.items()})

    def part(self, block: int | None) -> State:
        """One block, or everything: views, so that changing the part changes this."""
        if block is None:
            return self
        where = slice(*block_bounds(len(self.x), len(self.u))[block : block + 2])
        return replace(self, x=self.x[where], error=self.error[where], u=self.u[block : block + 1])


@dataclass(frozen=True)
class Contribution:
    """What one in-neighbour pushed: the weight W[receiver, sender] it chose, its u and its payload."""

    weight: float
    u: Weights
    payload: Payload


def debias(state: State) -> Floats:
    """z = x / u (line 10), block by block; a new vector."""
    weights = state.u.astype(np.float32)
    if len(weights) > 1:
        weights = np.repeat(weights, np.diff(block_bounds(len(state.x), len(weights))))
    return state.x / weights


def descend(state: State, local_update: Floats) -> None:
    """Line 4: x-hat = x + displacement. That is the optimiser's step on z, not scaled by u."""
    state.x += local_update


def emit(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """Lines 5 and 6: v = x-hat + error, C[v], error = v - C[v].

    ``error`` is taken against the payload as it will be decoded, so it absorbs value rounding too. A state without
    one is of a compressor that holds nothing back.
    """
    if not len(state.error):
        return compressor(state.x, layout, rng)
    corrected = state.error
    corrected += state.x
    payload = compressor(corrected, layout, rng)
    payload.add_to(corrected, -1.0)
    return payload


def drop_error(state: State) -> None:
    """Algorithm 2 gossips x itself: what compression held back is forgotten. No mass is lost by that."""
    state.error[:] = 0


def mix(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Iterable[Contribution],
    averaging_rate: float,
) -> None:
    """Line 9: x = x-hat + eta * sum_j (W_ij - I_ij) C[v_j], and the same for u.

    The self term uses the node's own *compressed* message: x-hat there would create or destroy mass. It uses the u that
    was pushed, too: taking back a push of an older round may have changed the state's since.
    Contributions must come in sender order: float sums depend on it, and every node's must agree to the bit.
    """
    given = averaging_rate * (1.0 - self_weight)
    own.add_to(state.x, -given)
    state.u -= given * own_u
    for contribution in received:
        scale = averaging_rate * contribution.weight
        contribution.payload.add_to(state.x, scale)
        state.u += scale * contribution.u


def inherit(state: State, contribution: Contribution) -> None:
    """Take a leaver's last push: all of x and u that it had, which no averaging rate may scale."""
    contribution.payload.add_to(state.x, 1.0)
    state.u += contribution.u


def take_back(state: State, own: Payload, own_u: Weights, weight: float, averaging_rate: float) -> None:
    """Undo one push of a mixed round: its receiver died, and what it did with the push counts nowhere."""
    own.add_to(state.x, averaging_rate * weight)
    state.u += averaging_rate * weight * own_u
