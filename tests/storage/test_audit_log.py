"""The audit log: an entry before a request is carried out, its outcome after it, and the newest ones kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgenode.storage import audit_log
from edgenode.storage.audit_log import AuditLog
from edgenode.storage.run_history import RunHistory


def test_request_is_an_entry_before_it_has_an_outcome(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    assert log.entries() == []
    number = log.begin("operator anna", "stop")
    log.begin("viewer guest", "x" * 5000)
    log.end(number, "round 42")
    first, second = log.entries()
    assert (first["who"], first["request"], first["outcome"]) == ("operator anna", "stop", "round 42")
    assert (second["outcome"], len(second["request"])) == (None, 1000)
    assert RunHistory(tmp_path).runs() == []


def test_newest_entries_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "_ENTRIES", 3)
    for i in range(9):
        AuditLog(tmp_path).begin("operator anna", str(i))
    assert [entry["request"] for entry in AuditLog(tmp_path).entries()] == ["6", "7", "8"]


def test_connections_create_the_database_at_the_same_time(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda i: AuditLog(tmp_path).begin("operator anna", str(i)), range(32)))
    assert sorted(numbers) == list(range(1, 33))
