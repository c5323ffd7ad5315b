"""The SQLite file of the history: its format, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edgenode.core.protocol.status import COUNTERS
from edgenode.errors import CheckpointError

# of a sample, named as in `edgenode status --json`
COLUMNS = (
    "round", "accuracy", "loss", "u", *COUNTERS, "round_s", "holds_up_s", "peak_memory_bytes", "joules_per_round",
)  # fmt: skip
_APPLICATION = int.from_bytes(b"edgh")
_FORMAT = 4
_BUSY_S = 2.0
_SCHEMA = f"""
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
    at_s REAL NOT NULL,  -- since the run began, without the time in which no controller recorded it
    graph TEXT,
    consensus_distance REAL,
    round INTEGER,
    payload_bytes INTEGER,  -- of all nodes, those that left included
    dense_bytes INTEGER,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE sample (
    run INTEGER NOT NULL,
    tick INTEGER NOT NULL,
    node TEXT NOT NULL,
    {", ".join(COLUMNS)},
    metrics TEXT,  -- of the last evaluation, as a JSON object, if they have names
    test_loss REAL,  -- the first of them, if it is the loss
    PRIMARY KEY (run, tick, node),
    FOREIGN KEY (run, tick) REFERENCES tick ON DELETE CASCADE
) WITHOUT ROWID;
CREATE TABLE event (
    run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    number INTEGER NOT NULL,
    at REAL NOT NULL,  -- seconds since 1970, by the controller's clock
    round INTEGER NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    record INTEGER NOT NULL,  -- of the plan that it comes from, or -1
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE node_count (  -- the newest, of every node that ever took part
    run INTEGER NOT NULL REFERENCES run ON DELETE CASCADE,
    node TEXT NOT NULL,
    {", ".join(COUNTERS)},
    PRIMARY KEY (run, node)
) WITHOUT ROWID;
CREATE TABLE audit (  -- of all runs
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,  -- seconds since 1970, by the controller's clock
    who TEXT NOT NULL,
    request TEXT NOT NULL,
    outcome TEXT
);
"""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a history in one transaction. Create it if there is none.

    Raises:
        CheckpointError: the file is not a history, or the disk fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_BUSY_S)) as database:
            database.row_factory = sqlite3.Row
            _check(database)
            with suppress(sqlite3.OperationalError):  # another connection is in a transaction. The next one sets it
                database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA synchronous = NORMAL")  # with WAL, a power cut loses the last seconds at most
            with database:
                yield database
    except (OSError, OverflowError, sqlite3.Error) as exc:
        raise CheckpointError(f"{path}: {exc}; remove it to start a new history") from exc


def rows(path: Path, query: str, *values: object) -> list[dict[str, Any]]:
    """Return the rows of a query. There are none without a history.

    Raises:
        CheckpointError: as `opened`.
    """
    if not path.exists():
        return []
    with opened(path) as database:
        return [dict(row) for row in database.execute(query, values)]


def _check(database: sqlite3.Connection) -> None:
    """Create the tables. Two connections may do it at the same time: the second one finds it done."""
    if _kind(database) == (_APPLICATION, _FORMAT):
        return
    database.execute("BEGIN IMMEDIATE")
    if (kind := _kind(database)) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
    elif kind != (_APPLICATION, _FORMAT):
        raise sqlite3.DatabaseError(f"it is not a history of format {_FORMAT}")
    database.commit()


def _kind(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the program that wrote the file, and the format. Zeros for a new one."""
    application, form = (database.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
    return application, form
