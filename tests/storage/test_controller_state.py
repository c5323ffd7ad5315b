"""The controller's state: a load returns what was saved last, or fails with the file's name."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from edgenode.core.protocol.events import UNREQUESTED, Persist, Rotate, Stop
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.resume import restore_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError, NoFreeFile
from edgenode.storage.controller_state import ControllerState
from tests.net.descriptors import none_free

PLAN = create_plan("home", [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], Schedule((GraphSpec("a"),), every=3))
REMEDY = "start with --recover to take the plan from the running nodes"


def a_persist(term: int = 2) -> Persist:
    before = create_plan("home", [*PLAN.latest.members, Member("n7"), Member("n8")], PLAN.latest.schedule)
    removal = {"handoffs": (("n7", "n0"),), "evictions": (("n8", 7),), "members": PLAN.latest.members}
    plan = before.extend(before.successor(9, term=2, **removal))
    mine = GraphSpec("mine", (("n0", "n1"), ("n1", "n0")))
    queued = Rotate(UNREQUESTED, (mine, GraphSpec("b")), Period(6, "epochs")), Stop(UNREQUESTED)
    return Persist(term, 5, plan, True, Schedule((mine,), every=2, origin=9), queued)


def grown(plan: Plan, records: int) -> Plan:
    for _ in range(records):
        plan = plan.extend(plan.successor(plan.latest.start + 10))
    return plan


@pytest.fixture
def state(tmp_path: Path) -> ControllerState:
    return ControllerState(tmp_path / "new", "run")


def rows(state: ControllerState) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(state.path)) as database:
        return database.execute("SELECT number, json FROM record ORDER BY number").fetchall()


# --- round trips


def test_load_returns_what_was_saved_last(state: ControllerState) -> None:
    assert state.load() is None
    state.save(a_persist(1))
    state.save(a_persist())
    assert ControllerState(state.path.parent, "run").load() == a_persist()


def test_save_replaces_the_records_that_differ(state: ControllerState) -> None:
    long = grown(PLAN, 5)
    other = long.extend(long.successor(1000, term=7))  # another controller's
    resumed, _ = restore_plan(long, long.latest.members, {n: (frozenset({40}), long) for n in long.latest.names})
    for plan in (PLAN, long, grown(long, 1), other, resumed, grown(resumed, 2)):
        state.save(Persist(1, 0, plan))
        assert state.load() == Persist(1, 0, plan)
        assert rows(state) == [(r.number, r.to_json()) for r in plan.records]


def test_save_rewrites_only_the_pages_that_change(state: ControllerState) -> None:
    with_many = grown(PLAN, 300)
    state.save(Persist(1, 0, with_many))
    before = state.path.read_bytes()
    state.save(Persist(1, 1, grown(with_many, 1)))
    after = state.path.read_bytes()
    changed = [i for i in range(0, len(before), 4096) if before[i : i + 4096] != after[i : i + 4096]]
    assert len(before) > 20 * 4096
    assert len(changed) <= 4


def test_database_has_an_application_id(state: ControllerState) -> None:
    state.save(a_persist())
    assert state.path.name == "controller.sqlite3"
    assert state.path.read_bytes()[68:72] == b"edgn"
    assert [path.name for path in state.path.parent.iterdir()] == ["controller.sqlite3"]


def test_close_removes_the_database_and_its_journals(state: ControllerState) -> None:
    state.close()
    state.save(a_persist())
    for name in ("-journal", "-wal", "-shm"):
        Path(f"{state.path}{name}").touch()
    state.close()
    assert state.load() is None
    assert list(state.path.parent.iterdir()) == []
    state.close()


# --- rejected


def test_state_of_another_configuration_is_rejected(state: ControllerState) -> None:
    state.save(a_persist())
    with pytest.raises(CheckpointError, match=r"controller\.sqlite3 belongs to an unfinished run with another config"):
        ControllerState(state.path.parent, "f00d").load()


def assert_rejected(state: ControllerState, reason: str) -> None:
    with pytest.raises(CheckpointError, match=rf"controller\.sqlite3 cannot be read: .*{reason}.*; {REMEDY}"):
        state.load()


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b"SQLite format 3\0", bytes(8192)])
def test_file_of_another_kind_is_rejected(state: ControllerState, damage: bytes) -> None:
    state.path.parent.mkdir()
    state.path.write_bytes(damage)
    assert_rejected(state, "")


def test_folder_in_place_of_the_database_is_rejected(state: ControllerState) -> None:
    state.path.mkdir(parents=True)
    assert_rejected(state, "unable to open")
    with pytest.raises(CheckpointError, match=r"cannot write .*controller\.sqlite3: unable to open"):
        state.save(a_persist())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("PRAGMA application_id = 0", "it is not a controller's state"),
        ("PRAGMA user_version = 1", "format 1, expected 2"),
        ("DELETE FROM state", "it is empty"),
        ("DELETE FROM record", "it is empty"),
        ("DELETE FROM record WHERE number = 1", "checksum"),
        ("UPDATE state SET term = term + 1", "checksum"),
        ("UPDATE state SET ballot = 0", "checksum"),
        ("UPDATE state SET paused = 0", "checksum"),
        ("UPDATE state SET run_digest = 'f00d'", "checksum"),
        ("UPDATE state SET sha256 = ''", "checksum"),
        ("UPDATE record SET json = replace(json, '7600', '7601')", "checksum"),
        ("UPDATE record SET json = x'00'", "its checksum does not match"),
        ("DROP TABLE record", "no such table"),
        ("DELETE FROM requests", "checksum"),
        ("DROP TABLE requests", "no such table: requests"),
        ("UPDATE requests SET json = replace(json, 'mine', 'yours')", "checksum"),
    ],
)
def test_edited_database_is_rejected(state: ControllerState, change: str, reason: str) -> None:
    state.save(a_persist())
    with closing(sqlite3.connect(state.path)) as database, database:
        database.execute(change)
    assert_rejected(state, reason)


@pytest.mark.slow
def test_damaged_file_is_never_loaded_as_other_state(state: ControllerState) -> None:
    """A flip of a byte that SQLite does not read may load: as what was saved."""
    saved, rng, outcomes = Persist(3, 4, grown(PLAN, 12)), random.Random(1), {True: 0, False: 0}
    state.save(saved)
    whole = state.path.read_bytes()
    for i in range(600):
        at = rng.randrange(120 if i < 120 else len(whole))
        n = rng.choice((1, 1, 64, 512))
        new = rng.choice((bytes([whole[at] ^ 1 << rng.randrange(8)]), bytes(n), rng.randbytes(n), b""))
        state.path.write_bytes(whole[:at] + new + (whole[at + len(new) :] if new else b""))
        Path(f"{state.path}-journal").unlink(missing_ok=True)
        try:
            assert state.load() == saved
            outcomes[True] += 1
        except CheckpointError as exc:
            assert "controller.sqlite3 " in str(exc) and REMEDY in str(exc)
            outcomes[False] += 1
    print("loaded, refused:", outcomes)
    assert outcomes[False] > 200


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_fails_the_save(state: ControllerState) -> None:
    state.path.parent.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match=r"cannot write .*controller\.sqlite3"):
        state.save(a_persist())


# --- killed


def test_unfinished_first_save_is_ignored(state: ControllerState) -> None:
    state.path.parent.mkdir()
    for name in (".controller.sqlite3.partial", ".controller.sqlite3.partial-journal", "controller.sqlite3-journal"):
        (state.path.parent / name).write_bytes(b"left")
    assert state.load() is None
    state.save(a_persist())
    assert state.load() == a_persist()
    assert [path.name for path in state.path.parent.iterdir()] == ["controller.sqlite3"]


LIVES = """
import os, sys
from pathlib import Path
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.storage.controller_state import ControllerState
from tests.net.descriptors import none_free

def save_forever():
    state, plan = ControllerState(Path(sys.argv[1]), "run"), Plan((Record.from_json(sys.argv[2]),))
    saved = state.load() or Persist(0, 0, plan)
    while True:
        before = saved.plan if len(saved.plan.records) < 20 else plan
        record = before.successor(before.latest.start + 10)
        saved = Persist(saved.term + 1, 2 * saved.term, before.extend(record))
        state.save(saved)
        os.write(1, b"%d\\n" % saved.term)  # in one piece: this process is killed at any moment

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        save_forever()
    print("born", child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


@pytest.mark.slow
def test_finished_saves_survive_sigkill(state: ControllerState) -> None:
    """Twenty processes in sequence, each killed while it saves."""
    rng, saved_term = random.Random(9), 0
    command = [sys.executable, "-c", LIVES, str(state.path.parent), PLAN.latest.to_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as lives:
        assert lives.stdin and lives.stdout
        for _ in range(20):
            lives.stdin.write("\n")
            child, before = 0, saved_term
            while not child or saved_term == before:
                line = lives.stdout.readline()
                child, saved_term = (int(line[5:]), saved_term) if "born" in line else (child, int(line))
            time.sleep(rng.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            while (line := lives.stdout.readline()) != "dead\n":
                saved_term = int(line)
            loaded = state.load()
            assert loaded is not None
            assert loaded.term in (saved_term, saved_term + 1)
            assert loaded.ballot == 2 * (loaded.term - 1)
            assert len(loaded.plan.records) > 1
    assert saved_term >= 20


@pytest.mark.parametrize("has_saved", [False, True])
def test_lack_of_file_descriptors_is_an_error_of_its_own(tmp_path: Path, has_saved: bool) -> None:
    state = ControllerState(tmp_path, "run")
    if has_saved:
        state.save(a_persist(1))
    with none_free(), pytest.raises(NoFreeFile):
        state.save(a_persist(2))
    state.save(a_persist(2))
    assert state.load() == a_persist(2)


def test_folder_that_is_gone_is_no_lack_of_descriptors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        ControllerState(tmp_path / "file" / "state", "run").save(a_persist())
    assert not isinstance(caught.value, NoFreeFile)
