"""A new project works as it is: it trains, and its test passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenode.cli import group


def new(name: str) -> str:
    result = CliRunner().invoke(group, ["new", name])
    assert result.exit_code == 0, result.output
    return result.output


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the edgenode of this checkout."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_new_project_trains_and_its_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "cd wave-types && edgenode simulate" in new("wave-types")
    folder = tmp_path / "wave-types"
    assert {file.name for file in folder.iterdir()} == {
        "wave_types.py", "run.toml", "test_wave_types.py", "README.md",
    }  # fmt: skip
    tested = ran(folder, "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    trained = ran(
        folder, "edgenode", "simulate", "--config", "run.toml", "--set", "run.rounds=60", "--set", "run.threads=1"
    )
    assert trained.returncode == 0, trained.stderr
    accuracy = re.search(r"test accuracy ([\d.]+)%", trained.stdout)
    assert accuracy is not None and float(accuracy[1]) > 60


@pytest.mark.parametrize(
    ("name", "text"),
    [("class", "'class' does not fit a Python module"), ("2birds", "'2birds' does not fit"), ("a b", "'a b' does not")],
)
def test_name_that_is_not_a_module_is_refused(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(group, ["new", name])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert text in result.output


def test_existing_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").mkdir()
    result = CliRunner().invoke(group, ["new", "birds"])
    assert (result.exit_code, "birds exists already" in result.output) == (2, True)
    assert list((tmp_path / "birds").iterdir()) == []
