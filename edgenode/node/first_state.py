"""The state with which a member begins: where it comes from, and what of the node's own goes on.

1. The common initial model, or that of the first member, at the beginning of a run.
2. A checkpoint of the node's own, when all resume.
3. A sponsor's model and shared state, for a node that joins a run under way. Then u = 1, and there is no error.
4. What all members have alike when an exchange begins, for a node that joins a run of exchanges (`common_copy`).

A node that joins drops its checkpoints: they belong to an earlier incarnation. Only two things go on from them: the
part of the model that is its own, and what it had not sent when the others resumed without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan.newcomers import is_unsent
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import CheckpointError
from edgenode.node.common_copy import common_part, without_common
from edgenode.node.model_server import take_over
from edgenode.node.workload import OWN_STATE, Trainer
from edgenode.storage.checkpoints import Arrays, CheckpointStore

_UNSENT = "rest"


@dataclass(frozen=True)
class StartPoint:
    """The point of a run at which a replica starts.

    Attributes:
        plan: the plan as the node knows it at the start.
        round: the first round.
        fetched: what a node that joins a running run has fetched: z and the shared state of a member, and in a run of
            exchanges the rest of what all members have alike. At round 0, the model of the first member.
    """

    plan: Plan
    round: int
    fetched: Arrays | None = None


def first_state(
    algorithm_spec: AlgorithmSpec, name: str, trainer: Trainer, store: CheckpointStore | None, start: StartPoint
) -> tuple[State, Mapping[str, int]]:
    """The first state of a member, and what it has counted before. Loads the state of its trainer.

    Args:
        store: the store of checkpoints. None keeps none.

    Raises:
        CheckpointError: the checkpoint of the first round is damaged or missing.
        RemoteProtocolError: what was fetched does not fit this model.
    """
    if start.fetched is not None:
        return _joined(algorithm_spec, name, trainer, store, start, start.fetched), {}
    if store is not None:
        store.rewind(start.round)
    if store is None or (start.round == 0 and not _resumes_from_0(start.plan, store)):
        return algorithm_spec.initial(trainer.initial()), {}
    checkpoint = store.load(start.round)
    trainer.load_local_state(checkpoint.local)
    return checkpoint.state, checkpoint.counts


def _joined(
    algorithm_spec: AlgorithmSpec,
    name: str,
    trainer: Trainer,
    store: CheckpointStore | None,
    start: StartPoint,
    fetched: Arrays,
) -> State:
    """The state that follows from what was fetched. No checkpoint is dropped before that is checked."""
    joins_exchange = algorithm_spec.rule.common is not None and start.round > 0
    z = take_over(trainer, without_common(fetched) if joins_exchange else fetched)
    brought = common_part(algorithm_spec, z, fetched) if joins_exchange else {}
    if store is not None:
        if start.round:
            _keep_own_part(trainer, store)
        unsent = _unsent(name, store, start.plan) if joins_exchange else None
        brought = brought if unsent is None else {**brought, _UNSENT: unsent}
        store.rewind(-1)
    return algorithm_spec.joining(brought) if joins_exchange else algorithm_spec.initial(z)


def _keep_own_part(trainer: Trainer, store: CheckpointStore) -> None:
    """Load the node's own part of the model from its newest checkpoint, if that has it and it fits."""
    state = trainer.local_state()
    if store.rounds() and any(name.startswith(OWN_STATE) for name in state):
        with suppress(CheckpointError):
            saved = store.load(max(store.rounds())).local
            own = {name: array for name, array in saved.items() if name.startswith(OWN_STATE)}
            trainer.load_local_state({**state, **own})


def _unsent(name: str, store: CheckpointStore, plan: Plan) -> Floats | None:
    """What the node had not sent when the others resumed without it. None if that is not known, or counts already."""
    with suppress(CheckpointError):
        rounds, theirs, _ = store.scan()
        t = plan.records[0].start
        if t in rounds and theirs is not None and is_unsent(name, t, theirs, plan):
            return store.load(t).state.kept[_UNSENT]
    return None


def _resumes_from_0(plan: Plan, store: CheckpointStore) -> bool:
    """Return whether the trainer may have trained before, so that only a checkpoint has the beginning."""
    return plan.records[0].number > 0 and 0 in store.rounds()
