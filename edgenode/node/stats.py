"""What a node did so far, and how its run ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.status import COUNTERS

COUNTS = (*COUNTERS, "alarms")
"""What a node counts, over all its processes: reports, checkpoints and result.json take it from here."""


@dataclass
class NodeStats:
    """What a node did so far. `NodeStatus` describes the counts, which continue when a run resumes."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    good_until: int | None = None  # of a checkpoint that was written while something was wrong
    loss: float | None = None
    accuracy: float | None = None
    before_average: float | None = None  # the last accuracy measured before the final gossip
    u: float = 1.0
    sketch_round: int = 0
    sketch: list[float] = field(default_factory=list)

    def count(self, **more: int) -> None:
        """Add to the counts of these names."""
        for name, number in more.items():
            self.counts[name] += number


@dataclass(frozen=True)
class Outcome:
    """How a node's run ended.

    Attributes:
        complete: False if it stopped or left before the last round.
        z: the final model, float32 [d].
        left: whether it left a run that goes on.
        handed_to: the node to which it has handed what it had. Empty without one.
    """

    round: int
    complete: bool
    test_accuracy: float | None
    z: Floats
    left: bool = False
    handed_to: str = ""
