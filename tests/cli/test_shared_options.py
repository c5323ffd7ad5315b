"""What several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenode.cli.shared_options import results_folder


def test_every_command_has_a_results_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that begin within a second."""
    monkeypatch.chdir(tmp_path)
    folders = [results_folder(None, "demo") for _ in range(20)]
    assert len(set(folders)) == 20
    assert set(folders) == set((tmp_path / "runs").glob("demo-*"))


def test_results_folder_that_is_given_may_exist(tmp_path: Path) -> None:
    given = tmp_path / "a" / "b"
    assert [results_folder(given, "launch") for _ in range(2)] == [given, given]
