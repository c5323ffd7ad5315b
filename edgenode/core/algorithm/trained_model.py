"""The model that local steps train: z, and how a step returns to x (line 4 of Algorithm 1).

While u is 1, z is x. Then x lies in the memory that is trained, and no vector is copied in a round:

1. ``LazyModel.read`` is given the trainer's memory, and moves x there. From then on x is what the trainer trains.
2. After the step, x is z', the model that the step led to. That is line 4: x + (z' - z) = z'. If x has memory of its
   own, z' is copied to it, so both ways give the same bits.
3. x moves out when u is not 1 any more. It also moves out in a round that does not train, because the trainer may still
   have to evaluate the model of an earlier round. The rounds of an allreduce change no x, so it stays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.sparse_push import LocalUpdate, State, debias, differences
from edgenode.core.algorithm.update_rules import UpdateRule
from edgenode.errors import LocalProtocolError


class LazyModel:
    """z for one use. It is computed when it is used, and where the trainer wants it: no vector waits."""

    def __init__(self, compute: Callable[[Floats | None], Floats]) -> None:
        self._compute = compute
        self._z: Floats | None = None

    def read(self, out: Floats | None = None) -> Floats:
        """z: a new vector, or ``out`` [d]. From the second time on, the vector of the first, as it is by then."""
        if self._z is None:
            self._z = self._compute(out)
        return self._z


class TrainedModel:
    """z of one node's state, in the memory of the trainer while x can lie there.

    Args:
        weight: the factor of local steps. x has its own memory if it is not 1.
    """

    def __init__(self, state: State, rule: UpdateRule, weight: float) -> None:
        self._state, self._rule, self._weight = state, rule, weight
        self._may_share = weight == 1.0 and rule.descends
        self._shares = False  # x is in the memory of the trainer
        self._trains_from_x = False  # a local step began with x / u, which is still what it was
        self._z: Floats | None = None  # what a local step began with, if x / u has changed since

    def begin_step(self, out: Floats | None = None) -> Floats:
        """Return z of the local step that begins now: a new vector, or ``out`` [d]. The caller owns it. It may be x."""
        self._trains_from_x, self._z = True, None
        state = self._state
        if out is None or not (self._may_share and state.is_unbiased):
            return self.read(out)
        if state.x is not out:
            np.copyto(out, state.x)
            state.x, self._shares = out, True
        return out

    def read(self, out: Floats | None = None) -> Floats:
        """Return z in a new vector, or in ``out`` [d], where x may be."""
        return self._state.x if out is self._state.x else debias(self._state, out)

    def end_step(self, update: LocalUpdate) -> None:
        """Change the state by the local update of the step that began last."""
        rule, state = self._rule, self._state
        if self._may_share and self._z is None and state.is_unbiased and not update.is_difference:
            if update.vector is not state.x:
                state.x[:] = update.vector
        elif rule.descends:  # part by part, so that x and the model are read once
            for where, part in differences(state, update, self._z, self._weight):
                state.x[where] += part
        else:
            vector = np.empty_like(state.x)
            for where, part in differences(state, update, self._z, self._weight):
                vector[where] = part
            rule.apply_update(state, vector)
        self._trains_from_x, self._z = False, None

    def keep_start(self) -> None:
        """Keep what the local step under way began with, as x is about to change.

        Raises:
            LocalProtocolError: the trainer trains x itself.
        """
        if self._trains_from_x:
            if self._shares:
                raise LocalProtocolError("a push was undone while x is trained")
            self._trains_from_x, self._z = False, debias(self._state)

    def leave(self) -> None:
        """Move x to memory of its own: the trainer's is for z."""
        if self._shares:
            self._state.x, self._shares = self._state.x.copy(), False

    def leave_if_biased(self) -> None:
        """Move x to memory of its own if it is not z any more."""
        if not self._state.is_unbiased:
            self.leave()
