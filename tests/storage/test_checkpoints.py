"""Checkpoints: a load is bit-identical to the save, or fails."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore, thinned
from edgenode.storage.filesystem import RealDisk, write_atomically

PLAN = create_plan("home", [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], Schedule((GraphSpec("a"),), every=3))
DTYPES = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def a_checkpoint(t: int = 50, **local: np.ndarray) -> Checkpoint:
    x = np.array([0.0, -0.0, 1e-45, -3.4e38, 1 / 3], dtype=np.float32)
    state = State(x, error=-x[::-1].copy(), u=np.array([0.1 + t, 1.0]))
    return Checkpoint(t, state, PLAN.extend(PLAN.successor(9)), local, {"messages": 7, "wire_bytes": 2**40})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, "run")


def folder(store: CheckpointStore, t: int = 50) -> Path:
    return store.folder / f"round-{t:09d}"


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


# --- round trips


def test_checkpoint_round_trip_is_bit_identical(store: CheckpointStore) -> None:
    saved = a_checkpoint()
    store.save(saved)
    loaded = CheckpointStore(store.folder.parent, "run").load(50)
    assert same_bits(loaded.state.x, saved.state.x)
    assert same_bits(loaded.state.error, saved.state.error)
    assert same_bits(loaded.state.u, saved.state.u)
    assert (loaded.round, loaded.counts, loaded.plan) == (50, saved.counts, saved.plan)
    assert loaded.plan.latest.digest == saved.plan.latest.digest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_local_arrays_of_every_dtype_and_shape_round_trip(
    store: CheckpointStore, dtype: str, shape: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    store.save(a_checkpoint(**{"buffer.bn.running": array}))
    assert same_bits(store.load(50).local["buffer.bn.running"], array)


def test_local_arrays_need_not_be_contiguous(store: CheckpointStore) -> None:
    array = np.arange(12.0).reshape(3, 4).T
    store.save(a_checkpoint(momentum=array))
    assert np.array_equal(store.load(50).local["momentum"], array)


@pytest.mark.parametrize("u", [5e-324, 1.0, 1 - 2**-53, 0.1 + 0.2])
def test_u_keeps_its_last_bit(store: CheckpointStore, u: float) -> None:
    checkpoint = a_checkpoint()
    checkpoint.state.u[1] = u
    store.save(checkpoint)
    assert store.load(50).state.u[1] == u


def test_newest_two_rounds_are_kept(store: CheckpointStore) -> None:
    for t in (50, 100, 150, 1_000_000):
        store.save(a_checkpoint(t))
    assert store.rounds() == {150, 1_000_000}
    assert sorted(p.name for p in store.folder.iterdir()) == ["round-000000150", "round-001000000"]


def test_round_can_be_saved_again(store: CheckpointStore) -> None:
    store.save(a_checkpoint(momentum=np.zeros(1)))
    store.save(a_checkpoint(momentum=np.ones(1)))
    assert store.load(50).local["momentum"] == [1.0]


def test_foreign_files_in_the_folder_stay(store: CheckpointStore) -> None:
    store.save(a_checkpoint())
    shutil.copytree(folder(store), store.folder / "round-000000050.bak")
    (store.folder / "round-notes").touch()
    store.save(a_checkpoint(100))
    assert store.rounds() == {50, 100}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_verifies_a_checkpoint(store: CheckpointStore) -> None:
    store.save(a_checkpoint())
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder(store), check=True)


# --- crashes


class Crash(BaseException):
    """The process dies."""


@contextmanager
def crash_at(call: int) -> Iterator[list[str]]:
    """Die at the n-th file system call of a save."""
    calls: list[str] = []

    def dying(name: str, real: object) -> object:
        def step(*args: object, **keywords: object) -> object:
            calls.append(name)
            if len(calls) > call:
                raise Crash
            return real(*args, **keywords)  # type: ignore[operator]

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "fsync", "rmdir", "unlink"):
            patch.setattr(os, name, dying(name, getattr(os, name)))
        yield calls


@pytest.mark.parametrize("again", [False, True], ids=["next", "again"])
def test_crash_at_any_step_leaves_loadable_checkpoints(tmp_path: Path, again: bool) -> None:
    """``again`` saves a round that exists already, as happens after a resume from an older one."""
    steps = 0
    while True:
        store = CheckpointStore(tmp_path / str(steps), "run")
        store.save(a_checkpoint(50))
        store.save(a_checkpoint(100))
        try:
            with crash_at(steps) as calls:
                store.save(a_checkpoint(100 if again else 150))
        except Crash:
            pass
        else:
            assert len(calls) == steps
            break
        rounds, plan, _ = CheckpointStore(tmp_path / str(steps), "run").scan()
        assert rounds == {50, 100} if again else {50, 100} <= rounds or rounds >= {100, 150}, calls
        assert plan == a_checkpoint().plan
        for t in rounds:
            assert store.load(t).state.u[0] == 0.1 + t
        store.save(a_checkpoint(200))
        assert 200 in store.rounds()
        assert not list(store.folder.glob(".*.partial"))
        steps += 1
    assert steps > 6


def test_partial_folders_are_not_scanned(store: CheckpointStore) -> None:
    store.save(a_checkpoint(50))
    shutil.copytree(folder(store), store.folder / ".round-000000100.partial")
    assert store.rounds() == {50}
    for name in ("state.safetensors", "meta.json", "SHA256SUMS"):
        shutil.copytree(folder(store), folder(store, 100))
        (folder(store, 100) / name).unlink()
        assert store.scan()[0] == {50}
        with pytest.raises(CheckpointError, match=name):
            store.load(100)
        shutil.rmtree(folder(store, 100))


# --- damage


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state.safetensors", "meta.json", "SHA256SUMS"])
def test_flipped_bit_is_detected(store: CheckpointStore, name: str) -> None:
    store.save(a_checkpoint(momentum=np.ones(3)))
    path = folder(store) / name
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (0x01, 0x20, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(CheckpointError):
                store.load(50)
    path.write_bytes(whole)
    store.load(50)


@pytest.mark.parametrize("name", ["state.safetensors", "meta.json", "SHA256SUMS"])
def test_shortened_or_lengthened_file_is_detected(store: CheckpointStore, name: str) -> None:
    store.save(a_checkpoint())
    path = folder(store) / name
    whole = path.read_bytes()
    for wrong in (*(whole[:n] for n in range(len(whole))), whole + b"\n", whole + b"\0"):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointError, match="round-000000050 is damaged"):
            store.load(50)


def test_renamed_checkpoint_is_rejected(store: CheckpointStore) -> None:
    store.save(a_checkpoint(50))
    folder(store).rename(folder(store, 60))
    with pytest.raises(CheckpointError, match="round-000000060 holds round 50"):
        store.load(60)


def test_later_format_is_rejected(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.storage.checkpoints._FORMAT", 3)
    store.save(a_checkpoint())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 3, expected 2"):
        store.load(50)


def test_other_run_is_rejected_with_both_digests(store: CheckpointStore) -> None:
    store.save(a_checkpoint())
    with pytest.raises(CheckpointError, match="of another run: run digest run, ours is other"):
        CheckpointStore(store.folder.parent, "other").load(50)


def test_absent_round_is_named_in_the_error(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match="round-000000007"):
        store.load(7)


CORRUPTIONS = int(os.environ.get("EDGENODE_CORRUPTIONS", "200"))
ARRAYS = ("x", "error", "u", "local.momentum", "local.buffer.mean")
FIELDS = ("format", "run_digest", "round", "counts", "records")
FILES = ("state.safetensors", "meta.json", "SHA256SUMS")
REGIONS = ("header length", "header", *ARRAYS, *FIELDS, *(f"sum of {name}" for name in FILES[:2]), *FILES, "folder")


def region_of(content: dict[str, bytes], region: str) -> tuple[str, int, int]:
    """The file and the range of bytes of a region of a checkpoint."""
    state, meta, sums = (content[name] for name in FILES)
    header = 8 + int.from_bytes(state[:8], "little")
    if region == "header length":
        return FILES[0], 0, 8
    if region == "header":
        return FILES[0], 8, header
    if region in ARRAYS:
        start, stop = json.loads(state[8:header])[region]["data_offsets"]
        return FILES[0], header + start, header + stop
    if region in FIELDS:
        start = meta.index(f'"{region}":'.encode())
        return FILES[1], start, min([i.start() for i in re.finditer(rb'\n "|\n}', meta) if i.start() > start])
    start = 0 if region == f"sum of {FILES[1]}" else sums.index(b"\n") + 1
    return FILES[2], start, sums.index(b"\n", start) + 1


def corrupt_bytes(rng: random.Random, whole: bytes, start: int, stop: int) -> bytes:
    """Damage one bit or a block within a range of bytes."""
    a = rng.randrange(start, stop)
    b = rng.randint(a + 1, min(stop, a + 64))
    block = whole[a:b]
    flipped = bytes([whole[a] ^ 1 << rng.randrange(8)]) + whole[a + 1 : b]
    return whole[:a] + rng.choice((flipped, flipped, bytes(b - a), rng.randbytes(b - a), b"", block * 2)) + whole[b:]


def corrupt_file(rng: random.Random, path: Path, other: Path) -> None:
    """Damage a file as a whole, perhaps with the same file of another round."""
    whole = path.read_bytes()
    match rng.choice(("shortened", "emptied", "lengthened", "doubled", "missing", "exchanged", "replaced", "folder")):
        case "shortened":
            path.write_bytes(whole[: rng.randrange(len(whole))])
        case "emptied":
            path.write_bytes(b"")
        case "lengthened":
            path.write_bytes(whole + rng.randbytes(rng.randint(1, 64)))
        case "doubled":
            path.write_bytes(whole * 2)
        case "missing":
            path.unlink()
        case "exchanged":
            path.write_bytes(other.read_bytes())
            other.write_bytes(whole)
        case "replaced":
            path.write_bytes(other.read_bytes())
        case "folder":
            path.unlink()
            path.mkdir()


def corrupt_folder(rng: random.Random, path: Path, other: Path) -> None:
    """Damage a checkpoint as a whole."""
    aside = path.with_name("aside")
    match rng.choice(("renamed", "exchanged", "replaced", "emptied", "file")):
        case "renamed":
            path.rename(path.with_name(f"round-{rng.randrange(10**9):09d}"))
        case "exchanged":
            path.rename(aside)
            other.rename(path)
            aside.rename(other)
        case "replaced":
            shutil.rmtree(path)
            shutil.copytree(other, path)
        case "emptied":
            shutil.rmtree(path)
            path.mkdir()
        case "file":
            shutil.rmtree(path)
            path.write_bytes(rng.randbytes(64))


def corrupt(rng: random.Random, region: str, path: Path, other: Path) -> None:
    if region == "folder":
        corrupt_folder(rng, path, other)
    elif region in FILES:
        corrupt_file(rng, path / region, other / region)
    else:
        content = read_folder(path)
        name, start, stop = region_of(content, region)
        (path / name).write_bytes(corrupt_bytes(rng, content[name], start, stop))


def read_folder(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() if p.is_file() else b"" for p in path.iterdir()} if path.is_dir() else {}


def write_folder(path: Path, content: dict[str, bytes]) -> None:
    path.mkdir(parents=True)
    for name, whole in content.items():
        (path / name).write_bytes(whole)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    arrays = [{**c.state.vectors, "u": c.state.u, **c.local} for c in (a, b)]
    plain = [(c.round, c.plan, dict(c.counts)) for c in (a, b)]
    return plain[0] == plain[1] and all(same_bits(arrays[0][name], arrays[1][name]) for name in arrays[0] | arrays[1])


@pytest.mark.parametrize("region", REGIONS)
def test_corrupted_checkpoint_is_never_loaded(store: CheckpointStore, region: str) -> None:
    """Damage a region of one round or of both: a scan returns the intact rounds and names the others.

    EDGENODE_CORRUPTIONS is the number of trials over all regions. Damage that also updates SHA256SUMS is an attack,
    and out of scope.
    """
    rng, outcomes = random.Random(region), Counter[str]()
    saved = {
        t: a_checkpoint(t, momentum=np.arange(30.0) / t, **{"buffer.mean": np.ones(9, np.float32) * t})
        for t in (50, 100)
    }
    for checkpoint in saved.values():
        store.save(checkpoint)
    whole = {t: read_folder(folder(store, t)) for t in saved}
    for _ in range(REGIONS.index(region), CORRUPTIONS, len(REGIONS)):
        damaged = set[int]()
        while not damaged:  # zeros over zeros change nothing
            shutil.rmtree(store.folder)
            for t, content in whole.items():
                write_folder(folder(store, t), content)
            for t in rng.choice(([50], [100], [100], [100, 50])):
                if all((folder(store, r) / name).is_file() for r in saved for name in FILES):
                    corrupt(rng, region, folder(store, t), folder(store, 150 - t))
            damaged = {t for t in saved if read_folder(folder(store, t)) != whole[t]}
        outcomes[require_refusal(store, saved, damaged)] += 1
    print(region, dict(outcomes))


def require_refusal(store: CheckpointStore, saved: dict[int, Checkpoint], damaged: set[int]) -> str:
    """A scan and loads yield the intact rounds only, bit-identical. Return the outcome in words."""
    intact = saved.keys() - damaged
    for t in store.rounds() | saved.keys():
        if t in intact:
            assert same(store.load(t), saved[t])
        else:
            with pytest.raises(CheckpointError, match=f"round-{t:09d}"):
                store.load(t)
    rounds, plan, damage = store.scan()
    assert rounds == intact
    assert plan == (saved[max(intact)].plan if intact else None)
    assert all(str(store.folder) in reason for reason in damage)
    return "the other one loaded" if intact else "all refused"


# --- failing disks


def test_file_in_place_of_the_folder_fails_the_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint of round 50"):
        CheckpointStore(tmp_path, "run").save(checkpoint := a_checkpoint())
    assert checkpoint.read.is_set()


class WatchedDisk(RealDisk):
    """Notes at each flush whether a checkpoint has been read."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.read = checkpoint, list[bool]()

    def flush(self, path: Path) -> None:
        self.read.append(self.checkpoint.read.is_set())
        super().flush(path)


def test_arrays_are_read_before_anything_is_flushed(tmp_path: Path) -> None:
    """A node that waits for it does not wait for the medium."""
    disk = WatchedDisk(checkpoint := a_checkpoint())
    assert not checkpoint.read.is_set()
    CheckpointStore(tmp_path, "run", disk).save(checkpoint)
    assert disk.read and all(disk.read)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_fails_the_save(store: CheckpointStore) -> None:
    store.save(a_checkpoint(50))
    store.folder.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot write the checkpoint of round 100"):
            store.save(a_checkpoint(100))
    finally:
        store.folder.chmod(0o700)


@pytest.mark.parametrize("limit", [100, 2_000])
def test_full_disk_fails_the_save_and_keeps_older_rounds(store: CheckpointStore, limit: int) -> None:
    """A limit on the size of a file stands in for the full disk. The lower one strikes the arrays."""
    store.save(a_checkpoint(50))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = a_checkpoint(100, momentum=np.zeros(10_000 if limit > 1_000 else 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(CheckpointError, match="cannot write the checkpoint of round 100"):
            store.save(big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.scan()[0] == {50}
    store.save(big)
    assert store.rounds() == {50, 100}


# --- scan and rewind


def test_scan_returns_intact_rounds_and_the_newest_plan(store: CheckpointStore) -> None:
    store.save(a_checkpoint(50))
    store.save(a_checkpoint(100))
    assert store.scan() == (frozenset({50, 100}), a_checkpoint().plan, ())


def test_scan_of_an_absent_folder_is_empty(store: CheckpointStore) -> None:
    assert store.scan() == (frozenset(), None, ())


def test_scan_names_every_damaged_checkpoint(store: CheckpointStore) -> None:
    for t in (50, 100):
        store.save(a_checkpoint(t))
        (folder(store, t) / "meta.json").write_text("{}")
    rounds, plan, damage = store.scan()
    assert (rounds, plan) == (frozenset(), None)
    assert all(f"{folder(store, t)} is damaged" in reason for t, reason in zip((50, 100), damage, strict=True))


def test_rewind_removes_later_rounds(store: CheckpointStore) -> None:
    store.rewind(10)  # nothing was saved yet
    store.save(a_checkpoint(50))
    store.save(a_checkpoint(100))
    store.rewind(100)
    assert store.rounds() == {50, 100}
    store.rewind(60)
    assert store.rounds() == {50}


# --- text files


def test_text_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("old", json.dumps({"μ": 1})):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


# --- older checkpoints, for going back


def test_older_rounds_are_kept_ever_more_sparsely(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run", every=10)
    for t in range(0, 210, 10):
        store.save(a_checkpoint(t))
    assert store.rounds() == {0, 80, 160, 180, 190, 200}


def test_rounds_after_something_went_wrong_replace_none_from_before(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run", every=10)
    for t in range(0, 500, 10):
        store.save(a_checkpoint(t), good_until=None if t <= 125 else 125)
    assert store.rounds() == {0, 80, 100, 110, 120, 480, 490}
    store.save(a_checkpoint(500))  # a false alarm
    assert store.rounds() == {0, 80, 120, 480, 490, 500}


@given(every=st.integers(1, 50), newest=st.integers(0, 300), steps=st.integers(1, 60))
def test_what_is_not_kept_at_one_round_is_not_kept_later(every: int, newest: int, steps: int) -> None:
    def kept(count: int) -> set[int]:
        return thinned((every * i for i in range(count + 1)), every)

    early, late = kept(newest), kept(newest + steps)
    assert {t for t in late if t <= every * newest} <= early
    assert {0, every * newest} <= early
    assert len(early) <= 2 + 2 * newest.bit_length()


def test_run_resumes_by_itself_from_the_newest_two_rounds_only(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, "run", every=10)
    for t in range(0, 110, 10):
        store.save(a_checkpoint(t))
    assert store.rounds() == {0, 40, 80, 90, 100}
    assert store.scan()[0] == {90, 100}
