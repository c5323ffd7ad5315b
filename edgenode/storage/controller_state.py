"""The state for the next controller of a run: term, ballot, plan, pause and requests. The end of the run removes it.

The controller acts only after it has saved. The invariant is: ``load`` returns what the last ``save`` that returned was
given, or raises an error that names the file.

1. The first save makes the database under a hidden name and renames it into place when it is whole. A database without
   content in its place is therefore damage.
2. Every further save is one transaction. SQLite keeps the old content in a journal until the new one is flushed, and a
   process that opens the database after a crash restores it.
3. Every save stores a checksum over all values, because SQLite does not notice a flipped bit in a value.

A save replaces the records that differ and inserts the new ones. So its cost does not grow with the plan. Every method
opens a connection and closes it, so each may run in any thread.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from edgenode.core.canonical import differences
from edgenode.core.protocol.controller.changes import requests_from_json, requests_to_json
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.errors import CheckpointError, NoFreeFile, OtherRun, RemoteProtocolError
from edgenode.storage.filesystem import REAL_DISK, lacks_files, make_durable, put_in_place

_APPLICATION = int.from_bytes(b"edgn")
_FORMAT = 2
_SUFFIXES = ("-journal", "-wal", "-shm")  # of files that SQLite may leave next to a database
_SCHEMA = f"""
BEGIN;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_FORMAT};
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    run_digest TEXT NOT NULL,
    term INTEGER NOT NULL,
    ballot INTEGER NOT NULL,
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    sha256 TEXT NOT NULL  -- over all of the above, the records and the requests
);
CREATE TABLE record (number INTEGER PRIMARY KEY, json TEXT NOT NULL);
CREATE TABLE config (text TEXT NOT NULL);  -- what run_digest is the digest of. It only serves errors
CREATE TABLE requests (only INTEGER PRIMARY KEY CHECK (only = 1), json TEXT NOT NULL);  -- of operators
COMMIT;
"""


class ControllerState:
    """The database of one controller. Every method raises CheckpointError if the disk fails.

    Args:
        config: the text that ``run_digest`` is the digest of, so that an error can name the keys that differ.
    """

    def __init__(self, state_dir: Path, run_digest: str, config: str = "") -> None:
        self.path = state_dir / "controller.sqlite3"
        self._run_digest, self._config = run_digest, config

    def save(self, persist: Persist) -> None:
        """Replace what was saved. It is on the medium when this returns.

        Raises:
            NoFreeFile: no file descriptor is free.
        """
        try:
            if self.path.exists():
                self._write(self.path, persist)
            else:
                self._create(persist)
        except (OSError, sqlite3.Error) as exc:
            kind = NoFreeFile if lacks_files(exc, self.path) else CheckpointError
            raise kind(f"cannot write {self.path}: {exc}") from exc

    def load(self) -> Persist | None:
        """Load what was saved last. None if nothing was, or the run is over.

        Raises:
            OtherRun: it belongs to another run.
            CheckpointError: it is damaged.
        """
        try:
            if not self.path.exists():
                return None
            with closing(_open(self.path)) as database:
                return self._read(database)
        except (OSError, sqlite3.Error, ValueError, TypeError, RemoteProtocolError) as exc:
            raise CheckpointError(
                f"{self.path} cannot be read: {exc}; start with --recover to take the plan from the running nodes"
            ) from exc

    def close(self) -> None:
        """Remove the database: the run is over."""
        if self.path.exists():
            for name in ("", *_SUFFIXES):
                Path(f"{self.path}{name}").unlink(missing_ok=True)
            REAL_DISK.flush(self.path.parent)

    def _create(self, persist: Persist) -> None:
        make_durable(REAL_DISK, self.path.parent)
        scratch = self.path.with_name(f".{self.path.name}.partial")
        for leftover in (scratch, *(Path(f"{path}{name}") for path in (scratch, self.path) for name in _SUFFIXES)):
            leftover.unlink(missing_ok=True)  # SQLite would apply an old journal to the new database
        with closing(sqlite3.connect(scratch)) as database:
            database.executescript(_SCHEMA)
            with database:
                database.execute("INSERT INTO config VALUES (?)", (self._config,))
        self._write(scratch, persist)
        put_in_place(scratch, self.path)

    def _write(self, path: Path, persist: Persist) -> None:
        records = persist.plan.records
        requests = requests_to_json(persist.requested, persist.queued)
        head = self._run_digest, persist.term, persist.ballot, int(persist.paused)
        digest = _digest(*head, *(record.to_json() for record in records), requests)
        with closing(_open(path)) as database:
            # FULL does not flush the folder when the journal is removed. After a power cut the journal could exist
            # again, and SQLite would undo a transaction that save has reported as done.
            database.execute("PRAGMA synchronous = EXTRA")
            with database:  # one transaction
                database.execute(
                    "DELETE FROM record WHERE number NOT BETWEEN ? AND ?", (records[0].number, records[-1].number)
                )
                database.executemany(
                    "INSERT INTO record VALUES (?, ?) "
                    "ON CONFLICT DO UPDATE SET json = excluded.json WHERE json <> excluded.json",
                    ((record.number, record.to_json()) for record in records),
                )
                database.execute("REPLACE INTO requests VALUES (1, ?)", (requests,))
                database.execute("REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?)", (*head, digest))

    def _read(self, database: sqlite3.Connection) -> Persist:
        if _value(database, "PRAGMA application_id") != _APPLICATION:
            raise ValueError("it is not a controller's state")
        if (version := _value(database, "PRAGMA user_version")) != _FORMAT:
            raise ValueError(f"format {version}, expected {_FORMAT}")
        if (check := _value(database, "PRAGMA integrity_check")) != "ok":
            raise ValueError(check)
        states = database.execute("SELECT run_digest, term, ballot, paused, sha256 FROM state").fetchall()
        texts = [text for (text,) in database.execute("SELECT json FROM record ORDER BY number")]
        if len(states) != 1 or not texts:
            raise ValueError("it is empty")
        run_digest, term, ballot, paused, digest = states[0]
        requests = [text for (text,) in database.execute("SELECT json FROM requests")]
        if digest != _digest(run_digest, term, ballot, paused, *texts, *requests):
            raise ValueError("its checksum does not match")
        if run_digest != self._run_digest:
            keys = differences(self._config, str(_value(database, "SELECT text FROM config")), run_digest)
            how = f"in this one {keys}" if keys else f"its digest is {run_digest}, ours is {self._run_digest}"
            raise OtherRun(
                f"{self.path} belongs to an unfinished run with another configuration: {how}. "
                "Remove it, or use another --state-dir"
            )
        plan = Plan(tuple(map(Record.from_json, texts)))
        return Persist(term, ballot, plan, bool(paused), *requests_from_json(*requests))


def _open(path: Path) -> sqlite3.Connection:
    """Open an existing database; sqlite3.Error if there is none."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _value(database: sqlite3.Connection, query: str) -> object:
    (value,) = database.execute(query).fetchone()
    return value


def _digest(run_digest: str, *values: object) -> str:
    digest = sha256(run_digest.encode())
    for value in values:  # one at a time, as a long run has thousands of records
        digest.update(f"\n{value}".encode())
    return digest.hexdigest()
