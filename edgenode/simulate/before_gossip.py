"""SP and SCSP in one run: SCSP's result before its last phase is the result of SP.

1. A node evaluates after it has saved the last training round. A run that resumes from exactly there evaluates again.
2. A checkpoint of a later round has other models, so the result is kept in a file. It is written when the last node has
   evaluated, and therefore before all nodes have saved a later round.
3. A run that begins before that round removes the file, which is then of an earlier run in this folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.evaluation import Evaluation
from edgenode.node.replica import Replica
from edgenode.storage import result_file
from edgenode.storage.result_file import NodeResult

_FILE = "before-gossip.json"


class BeforeGossip:
    """What the training rounds of a simulation led to.

    Args:
        out: the folder of the file. None keeps none.
        start: the round from which the simulation starts.

    Attributes:
        result: as in result.json, or None until all nodes have evaluated after the last training round.
    """

    def __init__(self, config: Config, replicas: Mapping[str, Replica], out: Path | None, start: int) -> None:
        self._config, self._replicas = config, replicas
        self._file = None if out is None else out / _FILE
        self._rows: dict[str, tuple[NodeResult, Floats]] = {}  # until all nodes have evaluated
        self.result = self._read() if start > config.run.rounds else None

    def begin(self, start: int) -> None:
        """Remove the file of an earlier run, when the run begins."""
        if self._file is not None and start < self._config.run.rounds:
            self._file.unlink(missing_ok=True)

    def is_due(self, start: int, end: int) -> bool:
        """Return whether a run that begins at ``start`` evaluates at once, because it was interrupted before."""
        rounds, every = self._config.run.rounds, self._config.run.evaluate_every
        return bool(0 < start == rounds < end and every and rounds % every == 0)

    def add(self, name: str, row: NodeResult, z: Floats, wall_s: float) -> None:
        """Take the result of one node after the last training round."""
        self._rows[name] = row, z
        if len(self._rows) < len(self._replicas):
            return
        sp = replace(self._config, algorithm=replace(self._config.algorithm, name="sp"))
        rows, models = zip(*(self._rows[name] for name in self._replicas), strict=True)
        self.result = result_file.summary(sp, rows, wall_s, models)
        self._rows = {}
        if self._file is not None:
            result_file.write(self._file, self.result)

    def _read(self) -> dict[str, Any] | None:
        if self._file is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept: dict[str, Any] = json.loads(self._file.read_text())
            for row in kept["nodes"]:
                self._replicas[row["node"]].stats.evaluation = Evaluation(row["test_accuracy"])
            return kept
        return None
