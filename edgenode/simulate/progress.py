"""What a simulation is doing, for a reader in another thread: no phase of it is silent.

The simulation writes, and a command reads it every now and then. A phase counts what is done of how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TypeVar

T = TypeVar("T")
_ROUNDS = "training"


class Progress:
    """The present phase of a simulation.

    Attributes:
        phase: what it does.
        total: the number of nodes that the phase treats. 0 where nothing is counted.
        round: while the nodes train and exchange, the round that some of them have not finished.
    """

    def __init__(self) -> None:
        self.phase, self.total, self.round = "loading the data", 0, 0
        self._done = 0
        self._halves = Counter[int]()  # round -> nodes that have trained, and those that have mixed

    @property
    def done(self) -> int:
        """The number of nodes that are done with the phase, or with the round."""
        return self._halves[self.round] // 2 if self.in_rounds else self._done

    @property
    def in_rounds(self) -> bool:
        """Return whether the nodes train and exchange."""
        return self.phase == _ROUNDS

    def begin(self, phase: str, total: int = 0) -> None:
        """Begin a phase."""
        self._done, self.phase, self.total = 0, phase, total

    def each(self, phase: str, nodes: Collection[T]) -> Iterator[T]:
        """Begin a phase that treats one node after the other, and count them."""
        self.begin(phase, len(nodes))
        for node in nodes:
            yield node
            self._done += 1

    def begin_rounds(self, first: int, nodes: int) -> None:
        """Begin to train and exchange, from round ``first`` on."""
        self.round = first
        self.begin(_ROUNDS, nodes)

    def count(self, t: int) -> None:
        """Count a node that has trained or mixed in a round."""
        self._halves.pop(self.round - 1, None)
        self._halves[t] += 1

    def __str__(self) -> str:
        return f"{self.phase}: {self.done:,} of {self.total:,} nodes" if self.total else self.phase
