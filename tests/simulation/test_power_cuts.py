"""Power cuts: acknowledged checkpoints survive, and nothing half-written is ever loaded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from edgenode.storage.filesystem import Disk
from tests.simulation.fake_disk import PowerCut, SimulatedDisk
from tests.simulation.test_fake_disk import crashed

STATE_DIR = Path("/var/edgenode/n0")
PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), every=3))
ROUNDS = (50, 100, 100, 150, 150, 200)  # a round is saved again after a resume from an older one


def a_checkpoint(t: int, version: int) -> Checkpoint:
    x = np.random.default_rng(version).standard_normal(40).astype(np.float32)
    return Checkpoint(
        t, State(x, error=-x, u=np.array([1.0 + version])), PLAN, {"momentum": x * 2}, {"messages": version}
    )


SAVES = [a_checkpoint(t, version) for version, t in enumerate(ROUNDS)]


def the_store(disk: Disk) -> CheckpointStore:
    return CheckpointStore(STATE_DIR, "run", disk)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    arrays = [(*c.state.vectors.values(), c.state.u, *c.local.values()) for c in (a, b)]
    return (a.round, a.plan, a.counts, a.local.keys()) == (b.round, b.plan, b.counts, b.local.keys()) and all(
        p.tobytes() == q.tobytes() for p, q in zip(*arrays, strict=True)
    )


def loadable(store: CheckpointStore) -> dict[int, Checkpoint]:
    intact = {}
    for t in store.rounds():
        try:
            intact[t] = store.load(t)
        except CheckpointError:
            continue
    return intact


def files(disk: SimulatedDisk, folder: Path) -> list[Path]:
    return [folder / name / file for name in disk.names(folder) for file in disk.names(folder / name)]


def require_intact(disk: SimulatedDisk, acknowledged: Sequence[Checkpoint], under_way: Sequence[Checkpoint]) -> None:
    """The newest two acknowledged rounds can be loaded, all that can be loaded is right, and saving still works."""
    store = the_store(disk)
    intact = loadable(store)
    newest = {c.round: c for c in acknowledged}
    for t, checkpoint in intact.items():
        right = [c for c in [newest.get(t), *under_way] if c and c.round == t]
        assert any(same(checkpoint, c) for c in right), f"round {t} was loaded wrong"
    for t in newest:
        assert t in intact or len([r for r in intact if r > t]) >= 2, f"round {t} is lost"
    if intact:
        assert store.scan()[0] == intact.keys() & set(sorted(store.rounds())[-2:])
    store.save(after := a_checkpoint(1000, 1000))
    disk.crash(random.Random(0))
    intact = loadable(the_store(disk))
    assert 1000 in intact, "round 1000 is lost"
    assert same(intact[1000], after), "round 1000 was loaded wrong"


def dying_saves(disk: SimulatedDisk, saves: Sequence[Checkpoint]) -> Iterator[tuple[int, SimulatedDisk]]:
    """For every operation of some saves: how many saves were acknowledged before it, and the disk that fails there."""
    for done, checkpoint in enumerate(saves):
        operations = 0
        while True:
            attempt = deepcopy(disk)
            attempt.fail_after(operations)
            try:
                the_store(attempt).save(checkpoint)
            except PowerCut:
                yield done, attempt
            else:
                break
            operations += 1
        attempt.fail_after(None)
        disk = attempt
    yield len(saves), disk


def cut_power(disk: SimulatedDisk, seeds: int) -> int:
    """Cut the power at every operation of every save. Returns the number of cases."""
    tried = 0
    for done, off in dying_saves(disk, SAVES):
        for after in crashed(off, seeds):
            require_intact(after, SAVES[:done], SAVES[done : done + 1])
            tried += 1
    return tried


def kill_then_cut_power(disk: SimulatedDisk, seeds: int) -> int:
    """Kill a process at every operation, then cut the power at every operation of the next one."""
    return sum(_kill_then_cut_power(deepcopy(disk), done, seeds) for done in (0, 2))


def _kill_then_cut_power(disk: SimulatedDisk, done: int, seeds: int) -> int:
    tried = 0
    acknowledged, dying, again = SAVES[:done], SAVES[done], a_checkpoint(100, 99)
    for checkpoint in acknowledged:
        the_store(disk).save(checkpoint)
    for returned, killed in dying_saves(disk, [dying]):
        killed.fail_after(None)
        before = [*acknowledged, dying] if returned else acknowledged
        for more, off in dying_saves(killed, [again]):
            under_way = [c for c in (dying, again) if c.round != again.round] if more else [dying, again]
            for after in crashed(off, seeds):
                require_intact(after, [*before, again] if more else before, under_way)
                tried += 1
    return tried


@pytest.mark.parametrize("seeds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_power_cut_at_any_operation_keeps_what_was_acknowledged(seeds: int) -> None:
    assert cut_power(SimulatedDisk(), seeds) > 100 * seeds


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_power_cut_after_a_kill_keeps_what_was_acknowledged(seeds: int) -> None:
    assert kill_then_cut_power(SimulatedDisk(), seeds) > 500 * seeds


class Forgetful(SimulatedDisk):
    """A disk that ignores one of the flushes of a save."""

    def __init__(self, forgets: str) -> None:
        super().__init__()
        self.forgets, self.last = forgets, ""

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.last = "made"

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.last = "renamed"

    def flush(self, path: Path) -> None:
        name = "scratch" if path.name.endswith("partial") else path.name or "/"
        if self.forgets != (f"{name} {self.last}" if name == "checkpoints" else name):
            super().flush(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "forgets",
    [
        "/",
        "var",
        "edgenode",
        "n0",
        "checkpoints made",
        "state.safetensors",
        "meta.json",
        "SHA256SUMS",
        "scratch",
        "checkpoints renamed",
    ],
)
def test_every_flush_is_needed(forgets: str) -> None:
    with pytest.raises(AssertionError, match=r"round \d+ is (lost|loaded wrong)"):
        kill_then_cut_power(Forgetful(forgets), seeds=2)
        cut_power(Forgetful(forgets), seeds=20)


def test_full_disk_keeps_checkpoints_and_works_after_cleanup() -> None:
    disk = SimulatedDisk()
    the_store(disk).save(SAVES[0])
    one = sum(len(disk.read(path)) for path in files(disk, the_store(disk).folder))
    the_store(disk).save(SAVES[1])
    for capacity in range(2 * one, 3 * one - 10, 37):
        full = deepcopy(disk)
        full.capacity = capacity
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint of round 150: .*No space left"):
            the_store(full).save(SAVES[3])
        assert full.names(the_store(full).folder) == ["round-000000050", "round-000000100"]
        full.crash(random.Random(capacity))
        full.capacity = None
        require_intact(full, SAVES[:2], [])
