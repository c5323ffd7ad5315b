"""The synchronous barrier: which contributions are here, and which are missing. It buffers them and judges nothing."""

from __future__ import annotations

from collections import defaultdict
from typing import Generic, TypeVar

C = TypeVar("C")


class Barrier(Generic[C]):
    """Contributions by round and sender, early ones included, each taken once."""

    def __init__(self) -> None:
        self._buffered: defaultdict[int, dict[str, C]] = defaultdict(dict)

    def add(self, t: int, sender: str, contribution: C) -> bool:
        """Buffer a contribution; False if there is one of this sender and round already: the first one counts."""
        of_round = self._buffered[t]
        # precaution: a repeat of a push is buffered once
        if sender in of_round:
            return False
        of_round[sender] = contribution
        return True

    def buffered_from(self, sender: str, since: int = 0) -> int:
        """The number of buffered rounds of a sender, from a round on."""
        return sum(sender in of_round for t, of_round in self._buffered.items() if t >= since)

    def missing(self, t: int, senders: tuple[str, ...]) -> tuple[str, ...]:
        """The senders whose contribution to a round is not here."""
        of_round = self._buffered.get(t, {})
        return tuple(s for s in senders if s not in of_round)

    def release(self, t: int) -> list[tuple[str, C]]:
        """Take out a round's contributions, in sender order: float sums depend on it."""
        return sorted(self._buffered.pop(t, {}).items(), key=lambda item: item[0])

    def discard(self, sender: str, after: int) -> None:
        """Drop the contributions of a sender to rounds after this one."""
        for t, of_round in self._buffered.items():
            if t > after:
                of_round.pop(sender, None)
