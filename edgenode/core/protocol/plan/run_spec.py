"""The facts that a run is created from, agreed before any node trains. Only its length can change, by the plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.protocol.plan.lag import LOCK_STEP, Lag
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec


@dataclass(frozen=True)
class RunSpec:
    """The facts that a run is created from.

    Attributes:
        nodes: the number of initial members.
        run_digest: the digest of the configuration that all nodes must share.
        schedule: the graphs that the run starts with.
        rounds: the rounds of the whole run as it is created, gossip included.
        min_nodes: below this number no member is evicted, and none may leave.
        requirements: the algorithm's requirements on every graph that an operator may set.
        on_poison: "report", "pause" or "evict": what follows when members accuse one.
        lag: the lag of mixing behind pushing.
        masked: messages are masked, so the plan has each member's key for masks.
        gossip_rounds: those of ``rounds`` that come after training.
    """

    cluster: str
    nodes: int
    run_digest: str
    schedule: ScheduleSpec
    rounds: int
    min_nodes: int = 1
    requirements: Requirements = field(default_factory=Requirements)
    on_poison: str = "report"
    lag: Lag = LOCK_STEP
    gossip_rounds: int = 0
    masked: bool = False

    @property
    def training_rounds(self) -> int:
        """The rounds of training of the run as it is created."""
        return self.rounds - self.gossip_rounds
