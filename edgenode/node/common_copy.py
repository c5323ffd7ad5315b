"""What all members of a run have alike when an exchange begins: a member's copy of it, for a node that joins then.

A copy has x and what else the update rule names (`UpdateRule.common`), the number of the round, and the shared state of
the member that gives it. All but the last is equal at all members, to the bit. The digest is over that, so members can
confirm the copy of another one without sending theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.algorithm.update_rules import UpdateRule
from edgenode.errors import RemoteProtocolError
from edgenode.net.model_sender import Model
from edgenode.node.model_server import MODEL, check_numbers, shared_state
from edgenode.node.workload import Trainer
from edgenode.storage.checkpoints import Arrays

_COMMON = "common."  # the first part of the names of what is equal at all members, without x
_ROUND = f"{_COMMON}round"


def copied(rule: UpdateRule, state: State, trainer: Trainer, t: int) -> Model:
    """A copy of the common part with which round t begins. The round must not have begun."""
    assert rule.common is not None
    parts = {_named(name): vector for name, vector in rule.common(state, False).items()}
    parts[_ROUND] = np.array([t])
    return Model(save({**parts, **shared_state(trainer)}), digest_of(parts))


def digest_of(copy: Arrays) -> str:
    """The SHA-256 of what is equal at all members, in hex."""
    found = sha256()
    for name in sorted(name for name in copy if name == MODEL or name.startswith(_COMMON)):
        array = np.ascontiguousarray(copy[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.data)
    return found.hexdigest()


def read_copy(data: bytes, t: int) -> Arrays:
    """The copy that a member sent to a node that joins in round t.

    Raises:
        RemoteProtocolError: it is damaged, of another round, or has numbers that cannot be.
    """
    try:
        copy = load(data)
    except SafetensorError as exc:
        raise RemoteProtocolError(f"its copy is damaged: {exc}") from exc
    check_numbers(copy)
    if MODEL not in copy or _ROUND not in copy or copy[_ROUND].tolist() != [t]:
        raise RemoteProtocolError(f"its copy is not of the beginning of round {t}")
    return copy


def without_common(copy: Arrays) -> Arrays:
    """z and the shared state of a copy, as a sponsor sends them."""
    return {name: array for name, array in copy.items() if not name.startswith(_COMMON)}


def common_part(algorithm_spec: AlgorithmSpec, z: Floats, copy: Arrays) -> Mapping[str, Floats]:
    """The vectors of the common part, by their names in the update rule.

    Raises:
        RemoteProtocolError: one is missing, or has not the shape of z [d].
    """
    rule = algorithm_spec.rule
    assert rule.common is not None
    brought = {name: copy.get(_named(name)) for name in rule.common(algorithm_spec.initial(z), False)}
    found = {name: v for name, v in brought.items() if v is not None and v.dtype == z.dtype and v.shape == z.shape}
    if missing := sorted(brought.keys() - found.keys()):
        raise RemoteProtocolError(f"the copy has no {missing[0]} of {len(z)} float32 numbers")
    return found


def _named(name: str) -> str:
    """The name in a copy."""
    return MODEL if name == "x" else f"{_COMMON}{name}"
