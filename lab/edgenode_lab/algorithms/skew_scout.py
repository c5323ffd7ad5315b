"""Skew-Scout (Hsieh et al. 2020): chooses the share that top-k keeps, by how differently the nodes' models behave.

Every ``travel_every`` rounds each model is tested on the training data of its out-neighbours. With skewed data it is
less accurate there than at home, the more so the less the nodes exchange. Skew-Scout minimises

    loss_weight * max(0, lost - tolerated) + sent

where ``lost`` is the mean accuracy lost away from home (the paper's AL) and ``sent`` the bytes sent since the last
measurement, relative to uncompressed messages (its C / CM). The paper varies a threshold theta. Here it is the share.
The three names are keys of [algorithm.options].

`ShareSearch` is this rule, and pure. `SkewScout` measures, and applies the rule to the nodes of a simulation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from edgenode import factory
from edgenode.config.schema import Config, as_toml
from edgenode.errors import CheckpointError, ConfigError
from edgenode.extensions import SPARSE_PUSH, AlgorithmDefinition, Digraph
from edgenode.node.replica import Replica
from edgenode.storage.filesystem import write_atomically

if TYPE_CHECKING:
    from edgenode.tasks.trainer import TaskTrainer

# the rule ----------------------------------------------------------------------------------------------

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass
class ShareSearch:
    """Hill climbing over ``SHARES``.

    Attributes:
        at: index of the share in use.
        costs: index of a share -> its cost when it was last in use.
    """

    tolerated: float
    loss_weight: float
    at: int
    costs: dict[int, float] = field(default_factory=dict)

    @classmethod
    def starting_at(cls, share: float, tolerated: float, loss_weight: float) -> ShareSearch:
        """A search that starts with the nearest of ``SHARES``, by ratio."""
        at = min(range(len(SHARES)), key=lambda i: abs(math.log(SHARES[i] / share)))
        return cls(tolerated, loss_weight, at)

    @property
    def share(self) -> float:
        """The share to keep until the next measurement."""
        return SHARES[self.at]

    def update(self, lost: float, sent: float) -> None:
        """Record the cost of the share in use, and choose the next one.

        1. Look ahead: at the next larger share if more accuracy than tolerated was lost, else at the next smaller.
        2. If its cost is not known yet, use it.
        3. Otherwise use the cheapest among the current share and its neighbours of known cost.
        """
        self.costs[self.at] = self.loss_weight * max(0.0, lost - self.tolerated) + sent
        ahead = self.at + (1 if lost > self.tolerated else -1)
        if ahead in range(len(SHARES)) and ahead not in self.costs:
            self.at = ahead
        else:
            near = [i for i in (self.at, self.at - 1, self.at + 1) if i in self.costs]
            self.at = min(near, key=lambda i: self.costs[i])


# the measurement ---------------------------------------------------------------------------------------


class SkewScout:
    """The measurements of one simulation, and the share that follows from them.

    The share of a round depends on all measurements before it. They are therefore kept in a file: a resumed simulation
    reads those from before its first round, and repeats the later ones.

    Args:
        file: where the measurements are kept, or None to keep them in memory only.
        start: the first round to run.

    Raises:
        CheckpointError: the file lacks a measurement from before ``start``.
    """

    def __init__(self, config: Config, replicas: Mapping[str, Replica], file: Path | None, start: int) -> None:
        options: Mapping[str, Any] = config.algorithm.options
        self._config, self._replicas, self._file = config, replicas, file
        self._every: int = options["travel_every"]
        self._search = ShareSearch.starting_at(
            config.algorithm.share, options["tolerated_loss"], options["loss_weight"]
        )
        self.measurements: list[dict[str, Any]] = self._read(start)
        for measured in self.measurements:
            self._search.update(measured["lost"], measured["sent"])
        self._apply_share()

    def _read(self, start: int) -> list[dict[str, Any]]:
        needed = list(range(self._every, start, self._every))
        try:
            kept = json.loads(self._file.read_text()) if self._file is not None and needed else []
            before: list[dict[str, Any]] = [measured for measured in kept if measured["round"] < start]
            if [measured["round"] for measured in before] != needed:
                raise ValueError(f"one of the rounds {needed} is missing")
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"{self._file} cannot be read, and the run cannot resume without it: {exc}") from exc
        return before

    def due(self, t: int) -> bool:
        """Whether a round begins with a measurement."""
        return t > 0 and t % self._every == 0

    def measure(self, t: int, graph: Digraph) -> None:
        """Test every model on its out-neighbours' training data, and choose the share from this round on.

        All nodes must have finished the round before, and none may have begun this one.

        Raises:
            CheckpointError: the measurement cannot be written.
        """
        lost = [
            self._accuracy(home, home) - self._accuracy(home, host)
            for home in graph.nodes
            for host in graph.out_neighbours(home)
        ]
        counts = [replica.stats.counts for replica in self._replicas.values()]
        payload, dense = (sum(of_node[name] for of_node in counts) for name in ("payload_bytes", "dense_bytes"))
        last = self.measurements[-1] if self.measurements else {"payload_bytes": 0, "dense_bytes": 0}
        measured = {
            "round": t,
            "share": self._search.share,
            "lost": sum(lost) / len(lost) if lost else 0.0,
            "sent": (payload - last["payload_bytes"]) / max(1, dense - last["dense_bytes"]),
            "payload_bytes": payload,
            "dense_bytes": dense,
        }
        self.measurements.append(measured)
        self._search.update(measured["lost"], measured["sent"])
        self._apply_share()
        if self._file is not None:
            try:
                write_atomically(self._file, json.dumps(self.measurements, indent=1) + "\n")
            except OSError as exc:
                raise CheckpointError(f"{self._file} cannot be written: {exc}") from exc

    def _accuracy(self, home: str, host: str) -> float:
        """The accuracy of one node's model on another's training data."""
        replica, other = self._replicas[home], self._replicas[host]
        trainer, theirs = cast("TaskTrainer", replica.trainer), cast("TaskTrainer", other.trainer)
        return trainer.accuracy_on(theirs, replica.learner.model()) or 0.0

    def _apply_share(self) -> None:
        """Give every node the algorithm spec of the current share."""
        algorithm = msgspec.structs.replace(self._config.algorithm, share=self._search.share)
        algorithm_spec = factory.algorithm_spec(msgspec.structs.replace(self._config, algorithm=algorithm))
        for replica in self._replicas.values():
            replica.learner.algorithm_spec = algorithm_spec


def _build(config: Config, replicas: Mapping[str, Replica], out: Path | None, start: int) -> SkewScout:
    options: Mapping[str, Any] = config.algorithm.options
    if options["travel_every"] < 1 or not 0 <= options["tolerated_loss"] <= 1 or options["loss_weight"] < 0:
        raise ConfigError(
            f"algorithm.options = {as_toml(dict(options))}, but travel_every must be 1 or more, tolerated_loss from 0 "
            "to 1, and loss_weight 0 or more"
        )
    return SkewScout(config, replicas, None if out is None else out / "skew-scout.json", start)


DEFINITION = AlgorithmDefinition(
    lambda: SPARSE_PUSH,
    options={"travel_every": 500, "tolerated_loss": 0.05, "loss_weight": 50.0},
    searches_share=_build,
)
