from __future__ import annotations

from pathlib import Path

import pytest

from edgenode.errors import CheckpointError
from edgenode.storage import filesystem
from edgenode.storage.privacy_ledger import LEDGER, FileLedger
from edgenode.tasks.privacy_budget import Budget, Spending

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
