"""The counts of a node, and the outcome of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.status import COUNTERS
from edgenode.evaluation import NOT_TESTED, Evaluation

COUNTS = (*COUNTERS, "alarms")
"""The names of a node's counts over all its processes, for reports, checkpoints and result.json."""


@dataclass
class NodeStats:
    """The work of a node so far. `NodeStatus` describes the counts, which continue when a run resumes."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    good_until: int | None = None  # of a checkpoint that was written while something was wrong
    refused: bool = False  # the average of the last phase
    loss: float | None = None
    evaluation: Evaluation = NOT_TESTED  # the last one
    before_average: float | None = None  # the last accuracy measured before the final gossip
    u: float = 1.0
    sketch_round: int = 0
    sketch: list[float] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """The accuracy at the last evaluation, if it had one."""
        return self.evaluation.accuracy

    def restore(self, counts: Mapping[str, int], u: float) -> None:
        """Go on from the counts of a checkpoint, and its push-sum weight. Without one, there are none."""
        self.good_until = counts.get("good_until")
        self.refused = "refused" in counts
        self.counts.update({name: n for name, n in counts.items() if name in COUNTS})
        self.u = u

    def count(self, **more: int) -> None:
        """Add to the counts of these names."""
        for name, number in more.items():
            self.counts[name] += number


@dataclass(frozen=True)
class Outcome:
    """The outcome of a node's run.

    Attributes:
        complete: False if it stopped or left before the last round.
        z: the final model, float32 [d].
        left: it left a run that goes on.
        handed_to: the node to which it has handed what it had. Empty without one.
    """

    round: int
    complete: bool
    test_accuracy: float | None
    z: Floats
    left: bool = False
    handed_to: str = ""
