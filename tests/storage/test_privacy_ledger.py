from __future__ import annotations

import random
from pathlib import Path

import pytest

from edgenode.errors import CheckpointError
from edgenode.storage import filesystem
from edgenode.storage.privacy_ledger import LEDGER, FileLedger
from edgenode.tasks.privacy_budget import Budget, Spending
from tests.simulation.fake_disk import PowerCut, SimulatedDisk

SPENT = (Spending(0.8, 0.05, 7), Spending(1.25, 1.0, 3))


def test_ledger_reads_what_it_wrote(tmp_path: Path) -> None:
    FileLedger(tmp_path).write(SPENT)
    assert FileLedger(tmp_path).read() == SPENT


def test_no_file_is_nothing_spent(tmp_path: Path) -> None:
    assert FileLedger(tmp_path).read() == ()


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"noise": 1, "rate": 2, "steps": 1}]', '[{"noise": 0, "rate": 1}]'])
def test_damaged_ledger_is_no_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / LEDGER).write_text(text)
    with pytest.raises(CheckpointError, match=r"what (so )?this node has spent|unknown"):
        FileLedger(tmp_path).read()


@pytest.mark.parametrize("moment", ["write", "flush", "rename"])
def test_crash_between_two_writes_never_lowers_the_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """At every operation of the disk, it fails. The step is not taken, and what is read back has all that were."""
    budget = Budget(FileLedger(tmp_path), None, 1e-5, Spending(1.0, 0.1, 0))
    for _ in range(100):  # all that were counted ahead
        assert budget.take()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(filesystem.REAL_DISK, moment, fail)
    with pytest.raises(CheckpointError, match=r"cannot write .*: No space left on device"):
        budget.take()
    monkeypatch.undo()
    assert sum(part.steps for part in FileLedger(tmp_path).read()) >= 100
    assert budget.take()
    assert sum(part.steps for part in FileLedger(tmp_path).read()) >= 101


STATE_DIR = Path("/var/edgenode/n0")
KIND = Spending(1.0, 0.1, 0)
LIMIT = 2.5


class Life:
    """A node on one disk: the steps that it took, which others may have received, and its newest checkpoint."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.disk, self.taken = rng, SimulatedDisk(), 0
        self.saved: tuple[Spending, ...] = ()
        self.disk.make_folder(STATE_DIR)

    def start(self) -> Budget:
        """A process starts, and resumes from the checkpoint or from an older state."""
        budget = Budget(FileLedger(STATE_DIR, self.disk), LIMIT, 1e-5, KIND)
        if self.rng.random() < 0.5:
            budget.raise_to(self.saved)
        return budget

    def live(self, budget: Budget) -> None:
        """Take steps and save, until a power cut or a kill."""
        for _ in range(self.rng.randint(1, 40)):
            if self.rng.random() < 0.8:
                self.taken += budget.take()  # once it returns, the step is taken and its result may be sent
            else:
                budget.settle()
                self.saved = budget.spent()

    def end(self) -> None:
        if self.rng.random() < 0.7:
            self.disk.crash(self.rng)
        self.disk.fail_after(None)  # else only the process was killed

    def require_counted(self) -> None:
        ledger = FileLedger(STATE_DIR, self.disk)
        counted = sum(part.steps for part in ledger.read())
        assert counted >= self.taken, f"{self.taken} steps were taken, and {counted} are counted"
        assert Budget(ledger, LIMIT, 1e-5, KIND).epsilon <= LIMIT


@pytest.mark.parametrize("first", [0, 100, *(pytest.param(n, marks=pytest.mark.slow) for n in (200, 300, 400, 500))])
def test_power_cut_at_any_operation_never_lowers_the_count(first: int) -> None:
    """Seeds: each is a node that is cut off or killed eight times, after any number of operations of its disk."""
    cuts = 0
    for seed in range(first, first + 100):
        life = Life(random.Random(seed))
        for _ in range(8):
            life.disk.fail_after(life.rng.randint(0, 12))
            try:
                life.live(life.start())
            except PowerCut:
                cuts += 1
            life.end()
            life.require_counted()
    assert cuts > 150
