"""The graph of a round, and who was evicted from it later: asked with every event, so kept for the last rounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.graph import Digraph


class PlannedRound(NamedTuple):
    """The facts of a plan about one round.

    Attributes:
        evicted_later: the members of the round that were evicted from it afterwards, each with the newest of its rounds
            that counts. Of several evictions of one name the first counts: the later ones are of processes that came
            after this round.
    """

    graph: Digraph
    evicted_later: Mapping[str, int]


class RoundCache:
    """Derives rounds from records, and keeps those that were asked for last."""

    def __init__(self, records: tuple[Record, ...]) -> None:
        self._records = records
        self.look_up = lru_cache(maxsize=64)(self._derive)

    def _derive(self, t: int) -> PlannedRound:
        later = tuple(takewhile(lambda record: record.start > t, reversed(self._records)))
        record = self._records[max(0, len(self._records) - len(later) - 1)]
        graph = record.schedule.graph(t, record.names)
        if handoffs := dict(pair for r in later if r.start == t + 1 for pair in r.handoffs):
            graph = graph.handing_over(handoffs)
        return PlannedRound(graph, {node: last for r in later for node, last in r.evictions})
