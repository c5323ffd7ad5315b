"""Measures what edgenode costs on this machine. ``edgenode bench`` prints it.

`vectors` is the work of one node, in processor time of one thread. `ring` is real nodes, which are processes of
`ring_node`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CLUSTER = "bench"
"""The cluster of the nodes of a ring."""


def name_of(index: int) -> str:
    """The name of a node of a ring."""
    return f"n{index}"


@dataclass(frozen=True)
class Measurement:
    """A quantity that was measured several times.

    Attributes:
        part: "selection", "codec", "round", "ring" or "memory".
        what: the quantity in words.
        values: one value for each repetition, in ``unit``.
    """

    part: str
    what: str
    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def as_dict(self) -> dict[str, object]:
        """The measurement as JSON values."""
        numbers = {"median": self.median, "low": min(self.values), "high": max(self.values)}
        return {
            "part": self.part,
            "what": self.what,
            **{key: round(number, 4) for key, number in numbers.items()},
            "unit": self.unit,
        }
