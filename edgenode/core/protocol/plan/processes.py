"""Every process that was ever a member of a run, as far as the records of its plan say."""

from __future__ import annotations

from collections.abc import Iterable

from edgenode.core.protocol.plan.record import Record


class Processes:
    """An index over records. A push is judged by it, so the records are searched once."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._joined: dict[tuple[str, int], int] = {}
        self._newest: dict[str, int] = {}
        self._evicted: dict[str, int] = {}
        for record in records:
            self._evicted.update({node: self.newest(node) for node, _ in record.evictions})
            for node, incarnation in record.incarnations.items():
                self._joined.setdefault((node, incarnation), record.start)
                self._newest[node] = max(self.newest(node), incarnation)

    def __len__(self) -> int:
        return len(self._joined)

    @property
    def names(self) -> frozenset[str]:
        """The names of all processes."""
        return frozenset(self._newest)

    def joined(self, node: str, incarnation: int) -> int:
        """The round from which a process is a member; 0 if it never was."""
        return self._joined.get((node, incarnation), 0)

    def newest(self, node: str) -> int:
        """The highest incarnation of a name; -1 if no process had it."""
        return self._newest.get(node, -1)

    def next_incarnation(self, node: str) -> int:
        """One more than any process of this name had."""
        # precaution: every process of a name has an incarnation of its own
        return 1 + self._newest.get(node, -1)

    def last_evicted(self, node: str) -> int:
        """The highest incarnation of a name that was evicted; -1 if none was."""
        return self._evicted.get(node, -1)
