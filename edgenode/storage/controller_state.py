"""What a controller writes down before it acts: its term, its ballot and the plan. SQLite; gone when the run is over.

A save is one transaction, on the medium when it returns: what is read is what was saved last, or it is refused by
name. Records stay where they are, and new ones are added. No connection outlives a call.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.plan import Plan, Record
from edgenode.errors import CheckpointError, OtherRun, RemoteProtocolError
from edgenode.storage.filesystem import REAL_DISK, make_lasting

_APPLICATION = int.from_bytes(b"edgn")
_FORMAT = 2
_BESIDE = ("-journal", "-wal", "-shm")  # what SQLite, or a look with another tool, may leave next to a database
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
    sha256 TEXT NOT NULL  -- over all of the above and the records: SQLite itself notices no flipped bit in a value
);
CREATE TABLE record (number INTEGER PRIMARY KEY, json TEXT NOT NULL);
COMMIT;
"""


class ControllerState:
    """The database of one controller."""

    def __init__(self, state_dir: Path, run_digest: str) -> None:
        self.path = state_dir / "controller.sqlite3"
        self._run_digest = run_digest

    def save(self, persist: Persist) -> None:
        """Replace what was written down; it is on the medium when this returns.

        Raises:
            CheckpointError: the disk refuses it.
        """
        try:
            if self.path.exists():
                self._write(self.path, persist)
            else:
                self._begin(persist)
        except (OSError, sqlite3.Error) as exc:
            raise CheckpointError(f"cannot write {self.path}: {exc}") from exc

    def load(self) -> Persist | None:
        """What the last controller of this run wrote down; None if there was none, or its run is over.

        Raises:
            CheckpointError: the file is damaged; OtherRun: it is of another run.
        """
        try:
            if not self.path.exists():
                return None
            with closing(_open(self.path)) as database:
                return self._read(database)
        except (OSError, sqlite3.Error, ValueError, TypeError, RemoteProtocolError) as exc:
            raise CheckpointError(
                f"{self.path} cannot be read: {exc}; start with --recover to rebuild it from the nodes"
            ) from exc

    def close(self) -> None:
        """The run is over."""
        if self.path.exists():
            for name in ("", *_BESIDE):
                Path(f"{self.path}{name}").unlink(missing_ok=True)
            REAL_DISK.flush(self.path.parent)

    def _begin(self, persist: Persist) -> None:
        """A new database, made beside its place: an empty one there is damage, not the start of one."""
        make_lasting(REAL_DISK, self.path.parent)
        scratch = self.path.with_name(f".{self.path.name}.partial")
        for left in (scratch, *(Path(f"{path}{name}") for path in (scratch, self.path) for name in _BESIDE)):
            left.unlink(missing_ok=True)  # a journal would be played back into the new database
        with closing(sqlite3.connect(scratch)) as database:
            database.executescript(_SCHEMA)
        self._write(scratch, persist)
        REAL_DISK.rename(scratch, self.path)
        REAL_DISK.flush(self.path.parent)

    def _write(self, path: Path, persist: Persist) -> None:
        records = persist.plan.records
        head = self._run_digest, persist.term, persist.ballot, int(persist.paused)
        digest = _digest(*head, (record.to_json() for record in records))
        with closing(_open(path)) as database:
            # FULL would not flush the folder: the journal could be back after a power cut, and undo what was written
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
                database.execute("REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?)", (*head, digest))

    def _read(self, database: sqlite3.Connection) -> Persist:
        if _value(database, "PRAGMA application_id") != _APPLICATION:
            raise ValueError("it is no ledger of a controller")
        if (version := _value(database, "PRAGMA user_version")) != _FORMAT:
            raise ValueError(f"format {version}, expected {_FORMAT}")
        if (check := _value(database, "PRAGMA integrity_check")) != "ok":
            raise ValueError(check)
        states = database.execute("SELECT run_digest, term, ballot, paused, sha256 FROM state").fetchall()
        texts = [text for (text,) in database.execute("SELECT json FROM record ORDER BY number")]
        if len(states) != 1 or not texts:
            raise ValueError("it is empty")
        run_digest, term, ballot, paused, digest = states[0]
        if digest != _digest(run_digest, term, ballot, paused, texts):
            raise ValueError("its checksum does not match")
        if run_digest != self._run_digest:
            raise OtherRun(
                f"{self.path} is of an unfinished run with another configuration, digest {run_digest}, ours is "
                f"{self._run_digest}: remove it, or give another --state-dir"
            )
        return Persist(term, ballot, Plan(tuple(map(Record.from_json, texts))), bool(paused))


def _open(path: Path) -> sqlite3.Connection:
    """Never makes a database: sqlite3.Error if there is none."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _value(database: sqlite3.Connection, query: str) -> object:
    (value,) = database.execute(query).fetchone()
    return value


def _digest(run_digest: str, term: int, ballot: int, paused: int, records: Iterable[str]) -> str:
    digest = sha256("\n".join([run_digest, str(term), str(ballot), str(paused)]).encode())
    for record in records:  # one at a time: a long run has thousands
        digest.update(f"\n{record}".encode())
    return digest.hexdigest()
