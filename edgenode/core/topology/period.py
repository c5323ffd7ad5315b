"""The time for which a graph is used, in rounds or in training epochs, and the length of an epoch.

A period becomes a number of rounds only when a run starts, because only then is it known how many rounds an epoch has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgenode.errors import GraphError

MAX_PERIOD = 999_999_999

_FOR_EVER = 1 << 40  # rounds. No run is longer


@dataclass(frozen=True, slots=True)
class Period:
    """A number of rounds, or of training epochs.

    Raises:
        GraphError: the number is below 1 or above MAX_PERIOD.
    """

    count: int
    unit: Literal["rounds", "epochs"] = "rounds"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_PERIOD:
            raise GraphError(f"a period must be 1 to {MAX_PERIOD} {self.unit}, not {self.count}")

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read "6ep", "100r" or "100", the inverse of ``str``.

        Raises:
            GraphError: the text is not a period.
        """
        match = re.fullmatch(r"([0-9]{1,9})(ep|r|)", text)
        if match is None or int(match[1]) == 0:
            raise GraphError(f"{text!r} is not a period: expected epochs, as in 6ep, or rounds, as in 100r or 100")
        return cls(int(match[1]), "epochs" if match[2] == "ep" else "rounds")

    def __str__(self) -> str:
        return f"{self.count}{'ep' if self.unit == 'epochs' else 'r'}"

    def rounds(self, rounds_per_epoch: int) -> int:
        """The period in rounds, where an epoch has that many."""
        return min(self.count * (rounds_per_epoch if self.unit == "epochs" else 1), _FOR_EVER)


@dataclass(frozen=True, slots=True)
class DataSize:
    """The size of one node's data, and the part of it that a round uses."""

    samples: int
    samples_per_round: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch of a run: equal at all nodes, while a node's passes over its own data are as long as its data.

    Attributes:
        samples: the number of samples of the mean initial member, rounded up.
        rounds: the rounds in which a node passes once through so many samples.

    Raises:
        GraphError: it has no rounds, or a negative number of samples.
    """

    samples: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        if self.samples < 0 or self.rounds < 1:
            raise GraphError(f"an epoch has {self.samples} samples and {self.rounds} rounds")

    @classmethod
    def of(cls, sizes: Iterable[DataSize]) -> Epoch:
        """The epoch of a run whose initial members have so much data."""
        every = list(sizes)
        samples = _divided(sum(size.samples for size in every), len(every))
        return cls(samples, max(1, _divided(samples, max(size.samples_per_round for size in every))))

    def weight(self, samples: int) -> float:
        """The weight of a node with so many samples, if nodes count by their samples: 1 for the mean node."""
        return samples / self.samples if self.samples else 1.0


NO_DATA = Epoch()
"""The epoch of a run whose nodes did not report their data."""


def _divided(amount: int, parts: int) -> int:
    """Divide, and round up."""
    return -(-amount // max(1, parts))
