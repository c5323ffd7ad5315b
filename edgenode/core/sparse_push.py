"""Algorithm 1 (Sparse-Push) and the gossip step of Algorithm 2, for one node. Arithmetic and nothing else.

The names are the paper's in words: ``x`` the accumulator, ``u`` the push-sum weight, ``error`` delta, and the
de-biased model z = x / u is what trains and is evaluated. Vectors are float32 [d], u is a float.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgenode.core.compress import Compressor, Floats, Layout, Payload


@dataclass(slots=True)
class State:
    """What one node carries from round to round.

    Attributes:
        x: the accumulator, changed in place; between ``emit`` and ``mix`` it is the paper's x-hat.
        error: delta, what compression has held back so far.
        u: the push-sum weight, 1 at the start.
    """

    x: Floats
    error: Floats
    u: float = 1.0

    @classmethod
    def initial(cls, model: Floats) -> State:
        """Input of Algorithm 1: x = z = the common model, error 0, u = 1."""
        return cls(x=model.astype(np.float32, copy=True), error=np.zeros(len(model), dtype=np.float32))


@dataclass(frozen=True)
class Contribution:
    """What one in-neighbour pushed: its payload, its u, and the weight W[receiver, sender] it chose.

    A weight of 1 is a leaver's: all it has, which no averaging rate may scale.
    """

    weight: float
    u: float
    payload: Payload


def debias(state: State) -> Floats:
    """z = x / u (line 10), a new vector."""
    return state.x / np.float32(state.u)


def emit(
    state: State,
    displacement: Floats | None,
    compressor: Compressor,
    layout: Layout,
    rng: np.random.Generator,
) -> Payload:
    """Lines 4 to 6: x-hat = x + displacement, v = x-hat + error, C[v], error = v - C[v].

    The displacement is the optimiser's step on z, not scaled by u; None in a round without training.
    ``error`` is taken against the payload as it will be decoded, so it absorbs value rounding too.
    """
    if displacement is not None:
        state.x += displacement
    corrected = state.error
    corrected += state.x
    payload = compressor(corrected, layout, rng)
    payload.add_to(corrected, -1.0)
    return payload


def drop_error(state: State) -> None:
    """Algorithm 2 gossips x itself: what compression held back is forgotten. No mass is lost by that."""
    state.error[:] = 0


def mix(
    state: State, own: Payload, self_weight: float, received: Iterable[Contribution], averaging_rate: float
) -> None:
    """Line 9: x = x-hat + eta * sum_j (W_ij - I_ij) C[v_j], and the same for u.

    The self term uses the node's own *compressed* message: x-hat there would create or destroy mass.
    Contributions must come in sender order: float sums depend on it, and every node's must agree to the bit.
    """
    pushed_u = state.u
    own.add_to(state.x, -averaging_rate * (1.0 - self_weight))
    state.u -= averaging_rate * (1.0 - self_weight) * pushed_u
    for contribution in received:
        scale = 1.0 if contribution.weight == 1.0 else averaging_rate * contribution.weight
        contribution.payload.add_to(state.x, scale)
        state.u += scale * contribution.u


def take_back(state: State, own: Payload, own_u: float, weight: float, averaging_rate: float) -> None:
    """Undo one push of a mixed round: its receiver died, and what it did with the push counts nowhere."""
    own.add_to(state.x, averaging_rate * weight)
    state.u += averaging_rate * weight * own_u
