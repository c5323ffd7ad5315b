"""The history of runs in SQLite, for tables and plots. No decision depends on it.

1. A run has at most ``_TICKS`` moments. When it has that many, every second one is deleted, and further ones are
   recorded half as often. The moments thus cover the whole run evenly, whether it takes a minute or a month. Of the
   events of a run, the newest ``_EVENTS`` are kept, and of the runs the newest ``_RUNS``.
2. A run that resumes, after a stop or under another controller, continues its record. The time in which no controller
   recorded it does not count.
3. The round of a moment does not fall. If all nodes were down and the run resumes from a checkpoint, the moments of the
   rounds after it are deleted, because the run replays these rounds. Bytes that were sent stay counted.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgenode.core.protocol.status import COUNTERS, ClusterStatus, NodeStatus, NodeView
from edgenode.evaluation import by_name, loss_of
from edgenode.storage.history_database import COLUMNS, opened, rows

NAME = "history.sqlite3"
_RUNS = 100
_TICKS = 1024
_EVENTS = 1000
_EVERY_S = 1.0
_MOST_INTEGER = (1 << 63) - 1  # of SQLite
NO_RECORD = -1


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened to a run.

    Attributes:
        at: seconds since 1970, by the controller's clock.
        round: the round of the run then, or the round from which a change is in force.
        kind: joined, evicted, paused, ...
        text: a sentence for people.
        record: the number of the plan record that it comes from, or NO_RECORD.
    """

    at: float
    round: int
    kind: str
    text: str
    record: int = NO_RECORD


RESTARTED = "restarted"
"""The kind of event after which a run replays the rounds after ``RunEvent.round``."""


@dataclass(frozen=True)
class RunSoFar:
    """The record of a run at the time when a controller begins to record it.

    Attributes:
        round: the newest recorded round.
        record: the newest plan record that has events.
        paused: True if an operator had paused it.
        counts: the counters of every node that ever took part, by name and column.
    """

    round: int = 0
    record: int = NO_RECORD
    paused: bool = False
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class RunHistory:
    """The database of one controller's runs. Every call opens and closes it.

    Every call raises CheckpointError if the file is not a history, or if the disk fails.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first. Empty without a history. ``ran_s`` is the time that was recorded."""
        query = "SELECT *, (SELECT max(at_s) FROM tick WHERE run = run.id) AS ran_s FROM run ORDER BY id"
        return rows(self.path, query)

    def samples(self, run: int) -> list[dict[str, Any]]:
        """All samples of a run, by time and node. Named metrics are a JSON object, or None."""
        query = (
            "SELECT tick.at_s, tick.graph, tick.consensus_distance, sample.node, "
            f"{', '.join(f'sample.{column}' for column in COLUMNS)}, sample.metrics FROM sample "
            "JOIN tick ON tick.run = sample.run AND tick.number = sample.tick WHERE sample.run = ? ORDER BY tick, node"
        )
        return rows(self.path, query, run)

    def last(self, run: int) -> dict[str, dict[str, Any]]:
        """The last known figures of every node that ever took part, by its name."""
        nodes: dict[str, dict[str, Any]] = {}
        for sample in self.samples(run):
            known = nodes.get(sample["node"], {})
            nodes[sample["node"]] = {key: known.get(key) if value is None else value for key, value in sample.items()}
        with opened(self.path) as database:
            counts = _counts(database, run)
        return {name: {**figures, **counts[name]} for name, figures in nodes.items()}

    def curve(self, run: int) -> list[dict[str, Any]]:
        """Every moment: means of accuracy and losses over the nodes, and bytes of all nodes together."""
        query = (
            "SELECT at_s, graph, consensus_distance, tick.round, avg(accuracy) AS accuracy, avg(loss) AS loss, "
            "avg(test_loss) AS test_loss, tick.payload_bytes, tick.dense_bytes FROM tick "
            "JOIN sample ON tick.run = sample.run AND tick.number = sample.tick "
            "WHERE tick.run = ? GROUP BY number ORDER BY number"
        )
        return rows(self.path, query, run)

    def events(self, run: int, most: int = _EVENTS) -> list[dict[str, Any]]:
        """The newest events of a run, oldest first."""
        query = "SELECT at, round, kind, text FROM event WHERE run = ? ORDER BY number DESC LIMIT ?"
        return rows(self.path, query, run, most)[::-1]


class Recorder:
    """Records one run.

    Args:
        about: cluster, run_digest, algorithm, compressor, nodes, rounds and config of the run.
        resumed: the run began earlier. Continue its record, if there is one.

    Attributes:
        so_far: the earlier record of it.
    """

    def __init__(self, history: RunHistory, about: Mapping[str, Any], resumed: bool = False) -> None:
        self._history = history
        self._every_s, self._due = _EVERY_S, 0.0
        self._tick = self._taken = self._event = 0
        self._about = dict(about)
        self.so_far = RunSoFar()
        with opened(history.path) as database:
            found = database.execute(
                "SELECT max(id) FROM run WHERE cluster = ? AND run_digest = ?", (about["cluster"], about["run_digest"])
            ).fetchone()[0]
            if resumed and found is not None:
                self._continue(database, found)
                self._update(database, about)
                return
            self._began = time.monotonic()
            keys = [*about, "began"]
            self.run: int = database.execute(
                f"INSERT INTO run ({', '.join(keys)}) VALUES ({', '.join('?' * len(keys))}) RETURNING id",
                (*about.values(), time.time()),
            ).fetchone()[0]
            database.execute("DELETE FROM run WHERE id <= ? - ?", (self.run, _RUNS))

    def describe(self, about: Mapping[str, Any]) -> None:
        """Record what has changed in the description of the run: more rounds."""
        if about.items() <= self._about.items():
            return
        with opened(self._history.path) as database:
            self._update(database, about)

    def _update(self, database: sqlite3.Connection, about: Mapping[str, Any]) -> None:
        keys = ", ".join(f"{key} = ?" for key in about)
        database.execute(f"UPDATE run SET {keys} WHERE id = ?", (*about.values(), self.run))
        self._about |= about

    def _continue(self, database: sqlite3.Connection, run: int) -> None:
        self.run = run
        database.execute("UPDATE run SET ended = NULL, outcome = NULL WHERE id = ?", (run,))
        self._tick, self._taken, ran_s, newest = database.execute(
            "SELECT coalesce(max(number) + 1, 0), count(*), coalesce(max(at_s), 0), coalesce(max(round), 0) "
            "FROM tick WHERE run = ?", (run,)
        ).fetchone()  # fmt: skip
        self._event, record = database.execute(
            "SELECT coalesce(max(number) + 1, 0), coalesce(max(record), ?) FROM event WHERE run = ?", (NO_RECORD, run)
        ).fetchone()
        pauses = database.execute(
            "SELECT kind FROM event WHERE run = ? AND kind IN ('paused', 'resumed') ORDER BY number", (run,)
        ).fetchall()
        paused = bool(pauses) and pauses[-1]["kind"] == "paused"
        self.so_far = RunSoFar(newest, record, paused, _counts(database, run))
        self._began = time.monotonic() - ran_s
        while self._every_s * _TICKS < ran_s:
            self._every_s *= 2

    def note(self, status: ClusterStatus, events: Sequence[RunEvent] = (), now: float | None = None) -> None:
        """Record events, and a status if the next moment is due. ``now`` is by the monotonic clock."""
        now = time.monotonic() if now is None else now
        due = now >= self._due and bool(status.nodes)
        if due or events:
            with self._transaction() as database:
                self._write_events(database, events)
                if due:
                    self._due = now + self._every_s
                    self._write(database, status, now)

    def end(self, status: ClusterStatus, outcome: str, events: Sequence[RunEvent] = ()) -> None:
        """Record the last events, the last status and the outcome."""
        with self._transaction() as database:
            self._write_events(database, events)
            self._write(database, status, time.monotonic())
            database.execute("UPDATE run SET ended = ?, outcome = ? WHERE id = ?", (time.time(), outcome, self.run))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the history. If the transaction fails, the numbers of moments and events are as before, too."""
        numbers = self._tick, self._taken, self._event, self._every_s, self._due
        try:
            with opened(self._history.path) as database:
                yield database
        except BaseException:
            self._tick, self._taken, self._event, self._every_s, self._due = numbers
            raise

    def _write_events(self, database: sqlite3.Connection, events: Sequence[RunEvent]) -> None:
        for event in events:
            if event.kind == RESTARTED:
                database.execute("DELETE FROM tick WHERE run = ? AND round > ?", (self.run, event.round))
                self._taken = _one(database, "SELECT count(*) FROM tick WHERE run = ?", self.run)
            database.execute(
                "INSERT INTO event (run, number, at, round, kind, text, record) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self.run, self._event, event.at, event.round, event.kind, event.text, event.record),
            )
            self._event += 1
        database.execute("DELETE FROM event WHERE run = ? AND number < ?", (self.run, self._event - _EVENTS))

    def _write(self, database: sqlite3.Connection, status: ClusterStatus, now: float) -> None:
        if self._taken >= _TICKS:
            self._thin(database)  # before, so that the newest moment stays: it may be the last
        graph = status.plan.at(status.round).schedule.spec(status.round).name if status.plan else None
        database.execute(
            "INSERT INTO tick (run, number, at_s, graph, consensus_distance, round, payload_bytes, dense_bytes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self.run, self._tick, round(now - self._began, 3), graph, status.consensus_distance, _stored(status.round),
             _stored(status.payload_bytes), _stored(status.dense_bytes)),
        )  # fmt: skip
        database.executemany(
            f"INSERT INTO sample (run, tick, node, {', '.join(COLUMNS)}, metrics, test_loss) "
            f"VALUES (?, ?, ?, {', '.join('?' * len(COLUMNS))}, ?, ?)",
            [
                (self.run, self._tick, node.node, *(_figure(node, name) for name in COLUMNS), *_tested(node.status))
                for node in status.nodes
            ],
        )
        database.executemany(
            f"REPLACE INTO node_count (run, node, {', '.join(COUNTERS)}) "
            f"VALUES (?, ?, {', '.join('?' * len(COUNTERS))})",
            [(self.run, node.node, *(_figure(node, name) for name in COUNTERS)) for node in status.nodes],
        )
        self._tick += 1
        self._taken += 1

    def _thin(self, database: sqlite3.Connection) -> None:
        """Delete every second moment. The others are evenly spread."""
        database.execute(
            "DELETE FROM tick WHERE run = ? AND number IN (SELECT number FROM (SELECT number, row_number() OVER "
            "(ORDER BY number) AS place FROM tick WHERE run = ?) WHERE place % 2 = 0)",
            (self.run, self.run),
        )
        self._taken = _one(database, "SELECT count(*) FROM tick WHERE run = ?", self.run)
        self._every_s *= 2


def _figure(node: NodeView, column: str) -> float | None:
    if not node.status.reported and column not in COUNTERS:
        return None
    figure: float | None = node.holds_up_s if column == "holds_up_s" else getattr(node.status, column)
    if isinstance(figure, float):
        return round(figure, 6)
    return None if figure is None else _stored(figure)


def _tested(status: NodeStatus) -> tuple[str | None, float | None]:
    """The named metrics as JSON, and the loss of the test, if there are any."""
    return (json.dumps(by_name(status.metrics)) if status.metrics else None), loss_of(status.metrics)


def _stored(count: int) -> int:
    """A count that fits SQLite: the history must not end because a node lies."""
    return min(count, _MOST_INTEGER)


def _counts(database: sqlite3.Connection, run: int) -> dict[str, dict[str, int]]:
    rows = database.execute(f"SELECT node, {', '.join(COUNTERS)} FROM node_count WHERE run = ?", (run,))
    return {row["node"]: {name: row[name] for name in COUNTERS} for row in rows}


def _one(database: sqlite3.Connection, query: str, run: int) -> int:
    (value,) = database.execute(query, (run,)).fetchone()
    return int(value)
