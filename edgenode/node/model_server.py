"""A member's model for those that join: what a sponsor sends, and what a newcomer takes over of it.

Both are z and the shared state, as safetensors. A sponsor makes them once in a round, in the worker.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from safetensors.numpy import save

from edgenode.core.algorithm.compression import DIVERGED, Floats
from edgenode.errors import CheckpointError, RemoteProtocolError
from edgenode.node.background import Worker
from edgenode.node.initial_model import InitialModel
from edgenode.node.workload import SHARED_STATE, Trainer
from edgenode.storage.checkpoints import Arrays

_Z = "z"  # the key of the model among what a sponsor sends


class ModelServer:
    """Gives the model of this member to nodes that ask for it.

    Args:
        model: makes it. Called in the worker.
        round: returns the member's round.
        initial: the model that this node begins with, if it is the first and the others take it over.

    Attributes:
        exporting: calls that wait for the model, which must not change until then.
    """

    def __init__(
        self, worker: Worker, model: Callable[[], bytes], round: Callable[[], int], initial: InitialModel | None
    ) -> None:
        self.exporting = 0
        self._worker, self._model, self._round, self._initial = worker, model, round, initial
        self._exported: tuple[int, bytes] | None = None  # the model of a round, for all newcomers that ask in it

    async def model_for(self, node: str) -> bytes:
        """The model for a node: the initial one, or that of this round."""
        t = self._round()
        if self._initial is not None and self._initial.serves(node, t):
            return self._initial.model
        if self._exported is None or self._exported[0] != t:
            self.exporting += 1
            try:
                self._exported = t, await self._worker(self._model)
            finally:
                self.exporting -= 1
        return self._exported[1]

    def round_ended(self, t: int) -> None:
        """Forget what nobody can ask for any more: a whole model each."""
        self._exported = None
        if self._initial is not None and t > self._initial.until:
            self._initial = None


def packed(trainer: Trainer, z: Floats) -> bytes:
    """z and the shared state, for a newcomer."""
    shared = {name: value for name, value in trainer.local_state().items() if name.startswith(SHARED_STATE)}
    return save({_Z: z, **shared})


def check_numbers(fetched: Arrays) -> None:
    """Judge the numbers of a sponsor, before the newcomer becomes a member.

    Raises:
        RemoteProtocolError: one is not finite, or so large that no node would send it.
    """
    for value in fetched.values():
        largest = np.abs(value).max(initial=0) if np.issubdtype(value.dtype, np.floating) else 0
        if not np.isfinite(largest):
            raise RemoteProtocolError("the sponsor sent a model with numbers that are not finite")
        if largest >= DIVERGED:
            raise RemoteProtocolError(f"the sponsor sent a model with a number of {largest:.4g}, as if it had diverged")


def take_over(trainer: Trainer, fetched: Arrays) -> Floats:
    """Load the shared state of a sponsor, and return its z. Nothing is dropped before both are checked.

    Raises:
        RemoteProtocolError: they are of another model, or have numbers that cannot be.
    """
    own = trainer.local_state()
    shared = {name: value for name, value in fetched.items() if name != _Z}
    z = fetched.get(_Z)
    if z is None or z.dtype != np.float32 or z.shape != (trainer.size,):
        raise RemoteProtocolError(f"the sponsor sent no model of {trainer.size} float32 numbers")
    check_numbers(fetched)
    if foreign := sorted(name for name in shared if not name.startswith(SHARED_STATE)):
        raise RemoteProtocolError(f"the sponsor sent {foreign[0][:80]!a}, which belongs to no model")
    try:
        trainer.load_local_state({**own, **shared})
    except CheckpointError as exc:
        raise RemoteProtocolError(f"the sponsor sent another model: {exc}") from exc
    return z
