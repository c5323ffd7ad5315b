"""What a simulation measured on its way: a row for each node, every so many rounds, as JSON lines and CSV.

1. Rows of a round are written together, when every node has mixed it. So their distances are from one mean.
2. Measuring changes no model, no count and no random number: a run with a history ends with the same bits.
3. A run that resumes keeps the rows of before, measures again what was interrupted, and its clock continues.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgenode.core.algorithm.compression import Floats
from edgenode.errors import CheckpointError
from edgenode.evaluation import Evaluation
from edgenode.node.replica import Replica
from edgenode.storage.filesystem import write_atomically

LINES, TABLE = "history.jsonl", "history.csv"

Row = Mapping[str, Any]
"""A ``node`` after ``round`` rounds: ``steps`` of its optimiser, ``loss`` of the last one, ``accuracy`` (0 to 1),
``test/NAME`` for each metric that its test names, ``consensus_distance`` (the L2 distance from the mean model), the
``messages``, ``payload_bytes`` and ``dense_bytes`` (uncompressed) that it has sent, and ``wall_s``."""


class History:
    """The rows of a simulation.

    Args:
        every: rounds between two measurements. The first is before round 0, and the last after the last round.
        folder: where history.jsonl and history.csv are. None writes nothing.
        follow: called with each new row, for a tracker.

    Attributes:
        rows: all rows so far, by round and node.
    """

    def __init__(self, every: int, folder: Path | None = None, follow: Callable[[Row], None] | None = None) -> None:
        self.every, self._folder, self._follow = every, folder, follow
        self.rows: list[Row] = []
        self._nodes = 0
        self._measured: dict[int, dict[str, tuple[dict[str, Any], Floats]]] = {}  # of rounds that not all have mixed
        self._earlier_s = 0.0

    def begin(self, start: int, nodes: int) -> bool:
        """Read the rows of before round ``start``. Return whether that round has to be measured now."""
        self._nodes = nodes
        earlier = self._read() if start else []  # what is there may be of another run
        self.rows = _whole_rounds([row for row in earlier if row["round"] <= start], nodes)
        self._earlier_s = self.rows[-1]["wall_s"] if self.rows else 0.0
        self._write_all()
        return start % self.every == 0 and (not self.rows or self.rows[-1]["round"] < start)

    def due(self, t: int) -> bool:
        """Return whether the models after ``t`` rounds are measured."""
        return t % self.every == 0

    def add(self, t: int, replica: Replica, steps: int, tested: Evaluation, z: Floats, wall_s: float) -> None:
        """Take what one node has after ``t`` rounds. ``wall_s``: the seconds since this process began.

        What is known already is not taken again.
        """
        if self.rows and t <= self.rows[-1]["round"]:
            return
        counts, named = replica.stats.counts, {metric.name: metric.value for metric in tested.metrics}
        row = {
            "round": t, "node": replica.name, "steps": steps, "loss": replica.stats.loss, "accuracy": tested.accuracy,
            **{f"test/{name}": value for name, value in named.items()}, "consensus_distance": 0.0,
            "messages": counts["messages"], "payload_bytes": counts["payload_bytes"],
            "dense_bytes": counts["dense_bytes"], "wall_s": round(self._earlier_s + wall_s, 3),
        }  # fmt: skip
        of_round = self._measured.setdefault(t, {})
        of_round[replica.name] = row, z.copy()
        if len(of_round) == self._nodes:
            self._add_round(self._measured.pop(t))

    def _add_round(self, of_round: Mapping[str, tuple[dict[str, Any], Floats]]) -> None:
        rows, models = zip(*(of_round[name] for name in sorted(of_round)), strict=True)
        for row, distance in zip(rows, distances(models), strict=True):
            row["consensus_distance"] = distance
            row["wall_s"] = max(other["wall_s"] for other in rows)
        self.rows += rows
        if self._folder is not None:
            with _on_disk(self._folder):
                with (self._folder / LINES).open("a", encoding="utf-8") as file:
                    file.write(json_lines(rows))
                with (self._folder / TABLE).open("a", encoding="utf-8") as file:
                    file.write(comma_separated(rows, heading=len(self.rows) == len(rows), names=list(self.rows[0])))
        for row in rows if self._follow else ():
            self._follow(row)  # type: ignore[misc]

    def _read(self) -> list[Row]:
        rows: list[Row] = []
        if self._folder is None:
            return rows
        with suppress(OSError, ValueError, TypeError, KeyError):  # the last line may be torn, and is measured again
            for line in (self._folder / LINES).read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                rows.append({**row, "round": int(row["round"]), "wall_s": float(row["wall_s"]), "node": row["node"]})
        return rows

    def _write_all(self) -> None:
        if self._folder is not None:
            with _on_disk(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self._folder / LINES, json_lines(self.rows))
                write_atomically(self._folder / TABLE, comma_separated(self.rows))


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Raise a CheckpointError where the disk does not accept a file."""
    try:
        yield
    except OSError as exc:
        raise CheckpointError(f"the history in {folder} cannot be written: {exc}") from exc


def _whole_rounds(rows: Sequence[Row], nodes: int) -> list[Row]:
    """The rows up to the first round that lacks nodes."""
    known: list[Row] = []
    while of_round := rows[len(known) : len(known) + nodes]:
        if len(of_round) < nodes or len({row["round"] for row in of_round}) > 1:
            break
        known += of_round
    return known


def distances(models: Sequence[Floats]) -> list[float]:
    """The L2 distance of each model [d] from their mean, without a copy of all of them."""
    mean = np.zeros(len(models[0]))
    for model in models:
        mean += model
    mean /= len(models)
    return [float(np.linalg.norm(model - mean)) for model in models]


def json_lines(rows: Sequence[Row]) -> str:
    """Rows as lines of JSON, for ``pandas.read_json(path, lines=True)``."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def comma_separated(rows: Sequence[Row], heading: bool = True, names: Sequence[str] | None = None) -> str:
    """Rows as CSV, for ``pandas.read_csv``. What was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names or (list(rows[0]) if rows else []), lineterminator="\n")
    if heading and rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
