"""A member's model for those that join: what a sponsor sends, and what a newcomer takes over of it.

Both are z and the shared state, as safetensors. A sponsor makes them once in a round, in the worker.

In a run of exchanges a node joins when an exchange begins, with what all members have alike then (`common_copy`). Each
member makes a copy of that before its local steps, and keeps it for the nodes that join, until the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from hashlib import sha256

import numpy as np
from safetensors.numpy import save

from edgenode.core.algorithm.compression import DIVERGED, Floats
from edgenode.core.protocol.plan.newcomers import members_before
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import CheckpointError, NotYet, RemoteProtocolError
from edgenode.net.model_sender import Model
from edgenode.node.background import Worker
from edgenode.node.initial_model import InitialModel
from edgenode.node.workload import SHARED_STATE, Trainer
from edgenode.storage.checkpoints import Arrays

MODEL = "z"
"""The name of the model among what a sponsor sends."""


class ModelServer:
    """Gives the model of this member to nodes that ask for it.

    Args:
        model: makes it. Called in the worker. None if messages are masked: the model of a moment has what they hide.
        round: returns the member's round.
        initial: the model that this node begins with, if it is the first and the others take it over.
        copy: makes the copy for nodes that join an exchange, given its first round. Called in the worker. None if nodes
            join in any round, with the model.

    Attributes:
        exporting: calls that wait for the model, which must not change until then.
    """

    def __init__(
        self,
        worker: Worker,
        model: Callable[[], bytes] | None,
        round: Callable[[], int],
        initial: InitialModel | None = None,
        copy: Callable[[int], Model] | None = None,
    ) -> None:
        self.exporting = 0
        self._worker, self._model, self._round, self._copy = worker, model, round, copy
        self._initial = None if initial is None else (initial, _whole(initial.model))
        self._exported: tuple[int, Model] | None = None  # the model of a round, for all newcomers that ask in it
        self._copied: tuple[Container[str], Model] | None = None  # of this exchange, for those that join in it

    async def model_for(self, node: str) -> Model:
        """The model for a node: the initial one, the copy of the exchange that it joins, or that of this round.

        Raises:
            NotYet: the exchange that the node joins does not begin yet.
            RemoteProtocolError: messages are masked.
        """
        t = self._round()
        if self._initial is not None and self._initial[0].serves(node, t):
            return self._initial[1]
        if self._copy is not None:
            if self._copied is None or node not in self._copied[0]:
                raise NotYet(f"{node} joins in no exchange that has begun by round {t}")
            return self._copied[1]
        if (make := self._model) is None:
            raise RemoteProtocolError("this node shows no model, which would tell what its masked messages hide")
        if self._exported is None or self._exported[0] != t:
            self.exporting += 1
            try:
                self._exported = t, await self._worker(lambda: _whole(make()))
            finally:
                self.exporting -= 1
        return self._exported[1]

    async def begins(self, plan: Plan, t: int) -> None:
        """Make a copy if nodes join in round t. To be called before the local step that this round begins with."""
        if self._copy is None:
            return
        self._copied = None
        if t > plan.records[0].start and (newcomers := set(plan.at(t).names) - set(members_before(plan, t))):
            self._copied = newcomers, await self._worker(self._copy, t)

    def round_ended(self, t: int) -> None:
        """Forget what nobody can ask for any more: a whole model each."""
        self._exported = None
        if self._initial is not None and t > self._initial[0].until:
            self._initial = None


def _whole(model: bytes) -> Model:
    return Model(model, sha256(model).hexdigest())


def packed(trainer: Trainer, z: Floats) -> bytes:
    """z and the shared state, for a newcomer."""
    return save({MODEL: z, **shared_state(trainer)})


def shared_state(trainer: Trainer) -> Arrays:
    """The part of a trainer's state that a newcomer takes over."""
    return {name: value for name, value in trainer.local_state().items() if name.startswith(SHARED_STATE)}


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
    shared = {name: value for name, value in fetched.items() if name != MODEL}
    z = fetched.get(MODEL)
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
