"""The seam between a simulation and an algorithm that chooses its share by measurements."""

from __future__ import annotations

from typing import Protocol

from edgenode.core.topology.graph import Digraph


class ShareSearch(Protocol):
    """Chooses the share that the compressor keeps, by measurements of models that are at rest."""

    def due(self, t: int) -> bool:
        """Return whether a round begins with a measurement."""

    def measure(self, t: int, graph: Digraph) -> None:
        """Measure, and choose the share from this round on. Every node has finished the round before.

        Raises:
            CheckpointError: the measurement cannot be written.
        """
