"""The history of runs in SQLite, for tables and plots. No decision depends on it.

A run has at most ``_TICKS`` moments. When it has that many, every second one is deleted, and further ones are recorded
half as often. The moments thus cover the whole run evenly, whether it takes a minute or a month. The newest ``_RUNS``
runs are kept.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from edgenode.core.protocol.status import ClusterStatus, NodeView
from edgenode.errors import CheckpointError

NAME = "history.sqlite3"
_APPLICATION = int.from_bytes(b"edgh")
_FORMAT = 1
_RUNS = 100
_TICKS = 1024
_EVERY_S = 1.0
_BUSY_S = 2.0
# the samples of a node, named as in `edgenode status --json`
_VALUES: Mapping[str, Callable[[NodeView], float | None]] = {
    "round": lambda n: n.status.round,
    "accuracy": lambda n: n.status.accuracy,
    "loss": lambda n: n.status.loss,
    "u": lambda n: n.status.u,
    "messages": lambda n: n.status.messages,
    "payload_bytes": lambda n: n.status.payload_bytes,
    "gossip_bytes": lambda n: n.status.gossip_bytes,
    "received_bytes": lambda n: n.status.received_bytes,
    "wire_bytes": lambda n: n.status.wire_bytes,
    "dense_bytes": lambda n: n.status.dense_bytes,
    "round_s": lambda n: round(n.status.round_s, 4),
    "holds_up_s": lambda n: round(n.holds_up_s, 3),
    "peak_memory_bytes": lambda n: n.status.peak_memory_bytes,
    "joules_per_round": lambda n: n.status.joules_per_round,
}
COLUMNS = tuple(_VALUES)
_SCHEMA = f"""
BEGIN;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
CREATE TABLE run (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster TEXT NOT NULL,
    run_digest TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    compressor TEXT NOT NULL,
    nodes INTEGER NOT NULL,
    rounds INTEGER NOT NULL,
    config TEXT NOT NULL,
    began REAL NOT NULL,  -- seconds since 1970, by the controller's clock
    ended REAL,
    outcome TEXT
);
CREATE TABLE tick (
    run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at_s REAL NOT NULL,  -- since the run began
    graph TEXT,
    consensus_distance REAL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE sample (
    run INTEGER NOT NULL,
    tick INTEGER NOT NULL,
    node TEXT NOT NULL,
    {", ".join(COLUMNS)},
    PRIMARY KEY (run, tick, node),
    FOREIGN KEY (run, tick) REFERENCES tick ON DELETE CASCADE
) WITHOUT ROWID;
COMMIT;
"""


class RunHistory:
    """The database of one controller's runs. Every call opens and closes it.

    Every call raises CheckpointError if the file is not a history, or if the disk fails.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first. Empty without a history."""
        if not self.path.exists():
            return []
        with self._opened() as database:
            return [dict(row) for row in database.execute("SELECT * FROM run ORDER BY id")]

    def samples(self, run: int) -> list[dict[str, Any]]:
        """All samples of a run, by time and node."""
        query = (
            f"SELECT tick.at_s, tick.graph, tick.consensus_distance, sample.node, {', '.join(COLUMNS)} FROM sample "
            "JOIN tick ON tick.run = sample.run AND tick.number = sample.tick WHERE sample.run = ? ORDER BY tick, node"
        )
        with self._opened() as database:
            return [dict(row) for row in database.execute(query, (run,))]

    def curve(self, run: int) -> list[dict[str, Any]]:
        """The means over the nodes at every moment."""
        query = (
            "SELECT at_s, graph, consensus_distance, min(round) AS round, "
            "avg(accuracy) AS accuracy, avg(loss) AS loss, "
            "avg(payload_bytes) AS payload_bytes, avg(dense_bytes) AS dense_bytes FROM tick "
            "JOIN sample ON tick.run = sample.run AND tick.number = sample.tick "
            "WHERE tick.run = ? GROUP BY number ORDER BY number"
        )
        with self._opened() as database:
            return [dict(row) for row in database.execute(query, (run,))]

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=_BUSY_S)) as database:
                database.row_factory = sqlite3.Row
                self._check(database)
                database.execute("PRAGMA foreign_keys = ON")
                database.execute("PRAGMA synchronous = NORMAL")  # with WAL, a power cut loses the last seconds at most
                with database:
                    yield database
        except (OSError, sqlite3.Error) as exc:
            raise CheckpointError(f"{self.path}: {exc}; remove it to start a new history") from exc

    def _check(self, database: sqlite3.Connection) -> None:
        application, form = (database.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
        if (application, form) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_SCHEMA)
        elif (application, form) != (_APPLICATION, _FORMAT):
            raise sqlite3.DatabaseError(f"it is not a history of format {_FORMAT}")


class Recorder:
    """Records one run.

    Args:
        about: cluster, run_digest, algorithm, compressor, nodes, rounds and config of the run.
        resumed: the controller restarted in the middle of a run. Continue its record, if there is one.
    """

    def __init__(self, history: RunHistory, about: Mapping[str, Any], resumed: bool = False) -> None:
        self._history = history
        self._every_s, self._due = _EVERY_S, 0.0
        with history._opened() as database:
            found = database.execute(
                "SELECT id, began FROM run WHERE ended IS NULL AND cluster = ? AND run_digest = ? ORDER BY id DESC",
                (about["cluster"], about["run_digest"]),
            ).fetchone()
            if resumed and found:
                self.run, self._began = found
                self._tick = _one(database, "SELECT coalesce(max(number) + 1, 0) FROM tick WHERE run = ?", self.run)
                self._taken = _one(database, "SELECT count(*) FROM tick WHERE run = ?", self.run)
                return
            self._began = time.time()
            keys = [*about, "began"]
            self.run = database.execute(
                f"INSERT INTO run ({', '.join(keys)}) VALUES ({', '.join('?' * len(keys))})",
                (*about.values(), self._began),
            ).lastrowid
            database.execute("DELETE FROM run WHERE id <= ? - ?", (self.run, _RUNS))
        self._tick = self._taken = 0

    def note(self, status: ClusterStatus, now: float | None = None) -> None:
        """Record a status, if the next moment is due."""
        now = time.time() if now is None else now
        if now >= self._due and status.nodes:
            self._due = now + self._every_s
            with self._history._opened() as database:
                self._write(database, status, now)

    def end(self, status: ClusterStatus, outcome: str) -> None:
        """Record the last status and the outcome."""
        now = time.time()
        with self._history._opened() as database:
            self._write(database, status, now)
            database.execute("UPDATE run SET ended = ?, outcome = ? WHERE id = ?", (now, outcome, self.run))

    def _write(self, database: sqlite3.Connection, status: ClusterStatus, now: float) -> None:
        graph = status.plan.at(status.round).schedule.spec(status.round).name if status.plan else None
        at_s = round(now - self._began, 3)
        tick = (self.run, self._tick, at_s, graph, status.consensus_distance)
        database.execute("INSERT INTO tick VALUES (?, ?, ?, ?, ?)", tick)
        database.executemany(
            f"INSERT INTO sample VALUES (?, ?, ?, {', '.join('?' * len(COLUMNS))})",
            [(self.run, self._tick, node.node, *(value(node) for value in _VALUES.values())) for node in status.nodes],
        )
        self._tick += 1
        self._taken += 1
        if self._taken >= _TICKS:
            self._thin(database)

    def _thin(self, database: sqlite3.Connection) -> None:
        """Delete every second moment. The others are evenly spread."""
        database.execute(
            "DELETE FROM tick WHERE run = ? AND number IN (SELECT number FROM (SELECT number, row_number() OVER "
            "(ORDER BY number) AS place FROM tick WHERE run = ?) WHERE place % 2 = 0)",
            (self.run, self.run),
        )
        self._taken = _one(database, "SELECT count(*) FROM tick WHERE run = ?", self.run)
        self._every_s *= 2


def _one(database: sqlite3.Connection, query: str, run: int | None) -> int:
    (value,) = database.execute(query, (run,)).fetchone()
    return int(value)
