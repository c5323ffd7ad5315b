"""The synchronous barrier: which contributions are here, which are missing. It holds; it does not judge."""

from __future__ import annotations

from collections import defaultdict
from typing import Generic, TypeVar

C = TypeVar("C")


class Barrier(Generic[C]):
    """Contributions by round and sender, early ones included, each taken once."""

    def __init__(self) -> None:
        self._held: defaultdict[int, dict[str, C]] = defaultdict(dict)

    def hold(self, round: int, sender: str, contribution: C) -> bool:
        """Keep a contribution; False if one of this sender and round is held already (the first one counts)."""
        of_round = self._held[round]
        # precaution: a repeat of a push is held once
        if sender in of_round:
            return False
        of_round[sender] = contribution
        return True

    def held_from(self, sender: str, since: int = 0) -> int:
        """How many rounds of one sender wait here, from a round on."""
        return sum(sender in of_round for round, of_round in self._held.items() if round >= since)

    def missing(self, round: int, senders: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the senders whose contribution to a round is not here."""
        of_round = self._held.get(round, {})
        return tuple(s for s in senders if s not in of_round)

    def release(self, round: int) -> list[tuple[str, C]]:
        """Take out a round's contributions, in sender order: float sums depend on it."""
        return sorted(self._held.pop(round, {}).items(), key=lambda item: item[0])

    def discard(self, sender: str, after: int) -> None:
        """Drop what is held from a sender of rounds after this one."""
        for round, of_round in self._held.items():
            if round > after:
                of_round.pop(sender, None)
