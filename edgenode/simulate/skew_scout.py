"""Skew-Scout's travels in a simulated run: models are tested on other nodes' training data, and the share follows.

What was measured is kept in a file beside the nodes' checkpoints; a run that goes on takes what was measured before its
round from there, and measures the rest again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgenode import factory
from edgenode.config import Config
from edgenode.core.topology.graph import Digraph
from edgenode.errors import CheckpointError
from edgenode.node.replica import Replica
from edgenode.simulate.skew_scout_rule import Scout
from edgenode.storage.checkpoints import write_atomically


class ModelTraveling:
    """The travels of one run.

    Args:
        file: where they are kept; None keeps nothing.
        start: the round that the run goes on from.

    Raises:
        CheckpointError: the file does not tell what happened before that round.
    """

    def __init__(self, config: Config, participants: Mapping[str, Replica], file: Path | None, start: int) -> None:
        algorithm = config.algorithm
        self._config, self._participants, self._file = config, participants, file
        self._scout = Scout.starting_at(algorithm.share, algorithm.tolerated_loss, algorithm.loss_weight)
        self.log: list[dict[str, Any]] = self._read(start)
        for travel in self.log:
            self._scout.travelled(travel["lost"], travel["sent"])
        self._follow()

    def _read(self, start: int) -> list[dict[str, Any]]:
        wanted = list(range(self._config.algorithm.travel_every, start, self._config.algorithm.travel_every))
        try:
            travels = json.loads(self._file.read_text()) if self._file is not None and wanted else []
            before: list[dict[str, Any]] = [travel for travel in travels if travel["round"] < start]
            if [travel["round"] for travel in before] != wanted:
                raise ValueError(f"it lacks one of the rounds {wanted}")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"{self._file} cannot be read, and without it the run cannot go on: {exc}") from exc
        return before

    def due(self, t: int) -> bool:
        """Whether models travel before a round."""
        return t > 0 and t % self._config.algorithm.travel_every == 0

    def travel(self, t: int, graph: Digraph) -> None:
        """Let every model visit the out-neighbours of its node, and choose the share to keep from this round on.

        All nodes must have closed the round before, and none have begun this one.

        Raises:
            CheckpointError: the disk refuses what was measured.
        """
        lost = [
            self._accuracy(home, home) - self._accuracy(home, host)
            for home in graph.nodes
            for host in graph.out_neighbours(home)
        ]
        tallies = [participant.stats for participant in self._participants.values()]
        payload, dense = sum(stats.payload_bytes for stats in tallies), sum(stats.dense_bytes for stats in tallies)
        last = self.log[-1] if self.log else {"payload_bytes": 0, "dense_bytes": 0}
        travel = {
            "round": t,
            "share": self._scout.share,
            "lost": sum(lost) / len(lost) if lost else 0.0,
            "sent": (payload - last["payload_bytes"]) / max(1, dense - last["dense_bytes"]),
            "payload_bytes": payload,
            "dense_bytes": dense,
        }
        self.log.append(travel)
        self._scout.travelled(travel["lost"], travel["sent"])
        self._follow()
        if self._file is not None:
            try:
                write_atomically(self._file, json.dumps(self.log, indent=1) + "\n")
            except OSError as exc:
                raise CheckpointError(f"{self._file} cannot be written: {exc}") from exc

    def _accuracy(self, home: str, host: str) -> float:
        """Of the model of one node on the training data of another."""
        return self._participants[home].accuracy_at(self._participants[host])

    def _follow(self) -> None:
        """Give every node the recipe of the share."""
        algorithm = msgspec.structs.replace(self._config.algorithm, share=self._scout.share)
        algorithm_spec = factory.algorithm_spec(msgspec.structs.replace(self._config, algorithm=algorithm))
        for participant in self._participants.values():
            participant.learner.algorithm_spec = algorithm_spec
