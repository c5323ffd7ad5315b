"""The SQLite file of the history: its format, and how it is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from edgenode.core.protocol.status import COUNTERS
from edgenode.errors import CheckpointError

# of a sample, named as in `edgenode status --json`
COLUMNS = (
    "round", "accuracy", "loss", "u", *COUNTERS, "round_s", "holds_up_s", "peak_memory_bytes", "joules_per_round",
)  # fmt: skip
_APPLICATION = int.from_bytes(b"edgh")
_FORMAT = 3
_BUSY_S = 2.0
_OF_FORMAT_2 = f"""
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
"""
_OF_FORMAT_3 = """
CREATE TABLE audit (  -- of all runs
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,  -- seconds since 1970, by the controller's clock
    who TEXT NOT NULL,
    request TEXT NOT NULL,
    outcome TEXT
);
"""
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
    PRIMARY KEY (run, tick, node),
    FOREIGN KEY (run, tick) REFERENCES tick ON DELETE CASCADE
) WITHOUT ROWID;
{_OF_FORMAT_2}
{_OF_FORMAT_3}
"""
# In format 1, the round and the bytes of a run fell when a node joined or left.
_FROM_FORMAT_1 = f"""
PRAGMA user_version = 2;
ALTER TABLE tick ADD COLUMN round INTEGER;
ALTER TABLE tick ADD COLUMN payload_bytes INTEGER;
ALTER TABLE tick ADD COLUMN dense_bytes INTEGER;
WITH moment AS (
    SELECT run, tick, min(nullif(round, 0)) AS round, sum(payload_bytes) AS sent, sum(dense_bytes) AS dense
    FROM sample GROUP BY run, tick
), so_far AS (
    SELECT run, tick, max(round) OVER past AS round, max(sent) OVER past AS sent, max(dense) OVER past AS dense
    FROM moment WINDOW past AS (PARTITION BY run ORDER BY tick)
)
UPDATE tick SET (round, payload_bytes, dense_bytes) = (
    SELECT coalesce(round, 0), sent, dense FROM so_far WHERE so_far.run = tick.run AND so_far.tick = tick.number
);
{_OF_FORMAT_2}
INSERT INTO node_count
    SELECT run, node, {", ".join(f"max({name})" for name in COUNTERS)} FROM sample GROUP BY run, node;
"""
_FROM_FORMAT_2 = f"""
PRAGMA user_version = 3;
{_OF_FORMAT_3}
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


def _check(database: sqlite3.Connection) -> None:
    """Create or upgrade the tables. Two connections may do it at the same time: the second one finds it done."""
    if _kind(database) == (_APPLICATION, _FORMAT):
        return
    database.execute("BEGIN IMMEDIATE")
    application, form = _kind(database)
    if (application, form) == (0, 0) and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
        scripts: tuple[str, ...] = (_SCHEMA,)
    elif application == _APPLICATION and 1 <= form <= _FORMAT:
        scripts = (_FROM_FORMAT_1, _FROM_FORMAT_2)[form - 1 :]
    else:
        raise sqlite3.DatabaseError(f"it is not a history of format {_FORMAT}")
    for script in scripts:
        for statement in script.split(";"):
            database.execute(statement)
    database.commit()


def _kind(database: sqlite3.Connection) -> tuple[int, int]:
    """Return the program that wrote the file, and the format. Zeros for a new one."""
    application, form = (database.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
    return application, form
