"""Folders of tests that several processes run: each test once, with its output, also after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]

_HEAD = """
import atexit, os, signal, time
from pathlib import Path
import pytest

@pytest.fixture(autouse=True)
def note(request):
    with Path("ran").open("a") as file:
        file.write(f"{request.node.name} {os.getpid()}\\n")
"""
_CRASHES = """
@pytest.fixture(scope="module")
def shared():
    with Path("made").open("a") as file:
        file.write(f"{os.getpid()}\\n")

@pytest.mark.parametrize("i", range(10))
def test_passes(i, shared):
    time.sleep(0.02)

def test_fails():
    print("printed before it fails")
    os.write(2, b"written before it fails")
    assert not Path("ran").exists()

def test_exits():
    os._exit(3)

def test_is_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_is_skipped():
    pytest.skip("nothing to do")

@pytest.mark.group("of four")
@pytest.mark.parametrize("i", range(4))
def test_shares(i):
    time.sleep(0.02)
"""
_STOPS = """
def test_fails():
    Path("failed").touch()
    assert False

@pytest.mark.parametrize("i", range(20))
def test_comes_later(i):
    while not Path("failed").exists():
        time.sleep(0.01)
    time.sleep(0.5)
"""
_ENDS_BADLY = """
@pytest.mark.parametrize("i", range(2))
def test_passes(i):
    atexit.register(os._exit, 5)
"""


def _run(folder: Path, tests: str, *options: str) -> str:
    (folder / "test_some.py").write_text(_HEAD + tests)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = group\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.parallel", "--jobs", "3", *options]
    environ = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=folder, env=environ, check=False, capture_output=True, text=True).stdout


def _ran(folder: Path) -> list[tuple[str, str]]:
    return [(name, pid) for name, pid in map(str.split, (folder / "ran").read_text().splitlines())]


@pytest.mark.slow
def test_each_test_runs_once_and_a_crash_fails_one(tmp_path: Path) -> None:
    output = _run(tmp_path, _CRASHES)
    assert "3 failed, 14 passed, 1 skipped" in output
    assert "the worker ended with exit code 3\n" in output
    assert "the worker ended with exit code -9\n" in output
    assert "printed before it fails" in output
    assert "written before it fails" in output
    names = [name for name, _ in _ran(tmp_path)]
    expected = [*(f"test_passes[{i}]" for i in range(10)), *(f"test_shares[{i}]" for i in range(4))]
    assert sorted(names) == sorted([*expected, "test_fails", "test_exits", "test_is_killed", "test_is_skipped"])
    assert len({pid for name, pid in _ran(tmp_path) if "shares" in name}) == 1
    made = (tmp_path / "made").read_text().split()
    assert len(set(made)) == len(made)


@pytest.mark.slow
def test_no_test_begins_after_the_failure_that_stops(tmp_path: Path) -> None:
    assert "stopping after 1 failures" in _run(tmp_path, _STOPS, "--maxfail", "1")
    assert len(_ran(tmp_path)) < 20


def test_worker_that_ends_badly_is_a_failure(tmp_path: Path) -> None:
    output = _run(tmp_path, _ENDS_BADLY)
    assert "2 passed" in output
    assert "FAILED after the last test of a worker - the worker ended with exit code 5" in output
