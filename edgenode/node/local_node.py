"""The part of a run that this process brings."""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.signatures import UNSIGNED, Verifier
from edgenode.core.topology.period import DataSize
from edgenode.net.wire import Identity


@dataclass(frozen=True)
class LocalNode:
    """The part of a run that this process brings.

    Attributes:
        saved: the rounds of its intact checkpoints, and the plan of the newest.
        data: the size of its data.
        port: the port where its peers reach it.
        verifier: verifies statements of a controller.
        model_bytes: an upper bound of a sponsor's model.
        joins_exchanges: a node that joins this run does so when an exchange begins.
    """

    identity: Identity
    saved: tuple[frozenset[int], Plan | None]
    data: DataSize
    port: int
    verifier: Verifier = UNSIGNED
    model_bytes: int = 1 << 20
    joins_exchanges: bool = False
