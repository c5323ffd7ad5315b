"""What a run is founded on: agreed before anybody trains, and never changed."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Schedule


@dataclass(frozen=True)
class RunSpec:
    """What a run is founded on.

    Attributes:
        nodes: how many members it waits for.
        run_digest: of the configuration that all must share.
        schedule: its ``every`` counts epochs if ``epochs``, else rounds.
        rounds: of the whole run, gossip included.
        min_nodes: below this no member is evicted, and none may leave.
        demands: what the algorithm demands of the graphs that an operator may want.
    """

    cluster: str
    nodes: int
    run_digest: str
    schedule: Schedule
    epochs: bool
    rounds: int
    min_nodes: int = 1
    requirements: Requirements = field(default_factory=Requirements)
