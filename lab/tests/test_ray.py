"""Experiments on a Ray cluster of two workers: the files of the local runner, also after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgenode.addresses import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.group("ray")]
pytest.importorskip("ray")

FILE = """
[run]
rounds = 3
[algorithm]
name = "scsp"
gossip_rounds = 2
[task]
batch_size = 8
[rows]
"top-1%" = { algorithm.compressor = "topk", algorithm.share = 0.01 }
"rolling 1%" = { algorithm.compressor = "rolling", algorithm.share = 0.01 }
diverges = { task.learning_rate = 1e30 }
"""
# A cluster for this machine alone. Ray's default asks for a token in the home folder.
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with two workers."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    host, port = address.split(":")
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # sockets need a short path
        words = ["start", "--head", "--block", "--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", folder]
        words += ["--node-ip-address", host, "--port", port, "--ray-client-server-port", str(free_ports(1)[0])]
        with (Path(folder) / "log").open("w") as log:
            ray = subprocess.Popen([sys.executable, "-m", "ray.scripts.scripts", *words], stdout=log, stderr=log,
                                   env=ENVIRONMENT)  # fmt: skip
        try:
            until(lambda: "Ray runtime started" in (Path(folder) / "log").read_text())
            yield address
        finally:
            ray.terminate()
            ray.wait(60)


_commands: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """End what a failed test has begun: its trials would hold the workers of the next test."""
    yield
    for process in _commands:
        process.kill()
        process.wait()
    _commands.clear()


def until(what: Any) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def begun(tmp_path: Path, out: str, *words: str, text: str = FILE) -> subprocess.Popen[str]:
    (tmp_path / "mine.toml").write_text(text)
    command = [sys.executable, "-m", "edgenode", "experiment", "mine.toml", "--out", out, *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    _commands.append(process)
    return process


def ended(tmp_path: Path, out: str, *words: str, text: str = FILE) -> tuple[int, str]:
    """Exit code and errors."""
    process = begun(tmp_path, out, *words, text=text)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def files(out: Path) -> dict[str, Any]:
    """What a command wrote, without times and without the figure, which has its time of creation."""

    def untimed(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: untimed(value) for key, value in content.items() if key != "wall_s"}
        return content

    def read(path: Path) -> Any:
        if path.name != "outcomes.jsonl":
            return path.read_text()
        lines = (untimed(json.loads(line)) for line in path.read_text().splitlines())
        return sorted(json.dumps(line, sort_keys=True) for line in lines)  # in the order in which runs end

    figures = (".png", ".pdf")  # with the time
    return {str(p.relative_to(out)): read(p) for p in out.rglob("*") if p.is_file() and p.suffix not in figures}


def tasks() -> list[psutil.Process]:
    """The processes that run trials."""
    return [process for process in psutil.process_iter() if "ray::_run" in " ".join(_words(process))]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_resumed_files_equal_those_of_the_local_runner(cluster: str, tmp_path: Path) -> None:
    process = begun(tmp_path, "ray", "--seeds", "3-4", "--on", f"ray:{cluster}")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1 of 6, ")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    code, errors = ended(tmp_path, "ray", "--seeds", "3-4", "--on", f"ray:{cluster}")
    assert code == 0, errors
    assert errors.startswith("1 of ") and not errors.startswith("1 of 6, ")
    assert ended(tmp_path, "local", "--seeds", "3-4")[0] == 0
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert len(files(tmp_path / "ray")) == 3 + 6 + 1  # tables and numbers, configurations, outcomes
    assert len(files(tmp_path / "ray")["outcomes.jsonl"]) == 6
    assert (tmp_path / "ray" / "mine.png").stat().st_size > 0


def test_interrupted_command_keeps_outcomes_and_cancels_tasks(cluster: str, tmp_path: Path) -> None:
    endless = FILE + "endless = { run.rounds = 1_000_000 }\n"
    process = begun(tmp_path, "ray", "--on", f"ray:{cluster}", text=endless)
    assert process.stderr is not None
    for i in (1, 2, 3):
        assert process.stderr.readline().startswith(f"{i} of 4, ")
    until(lambda: len(tasks()) == 1)  # the process of the third trial ends, or waits for another one
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-2]) == (
        130, "edgenode: finished runs are saved; the same command resumes from ray"
    )  # fmt: skip
    until(lambda: not tasks())
    assert len((tmp_path / "ray" / "outcomes.jsonl").read_text().splitlines()) == 3


def test_task_that_dies_is_reported_with_its_trial(cluster: str, tmp_path: Path) -> None:
    endless = "[rows]\nendless = { run.rounds = 1_000_000 }\n"
    process = begun(tmp_path, "ray", "--on", f"ray:{cluster}", text=endless)
    until(lambda: len(tasks()) == 1)
    (task,) = tasks()
    task.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("edgenode: endless-seed-0 failed on Ray: ")


def test_missing_data_is_reported_with_its_trial(cluster: str, tmp_path: Path) -> None:
    elsewhere = '[task]\ndataset = "fashion-mnist"\ndata_dir = "/nowhere"\n[rows]\nclothes = {}\n'
    code, errors = ended(tmp_path, "ray", "--on", f"ray:{cluster}", text=elsewhere)
    assert code == 2
    assert errors.splitlines()[-1].startswith("edgenode: clothes-seed-0 on ")
    assert "/nowhere" in errors.splitlines()[-1]


def test_cluster_without_the_device_is_refused(cluster: str, tmp_path: Path) -> None:
    code, errors = ended(tmp_path, "ray", "--on", f"ray:{cluster}", "--device", "cuda")
    assert (code, errors) == (2, "edgenode: the Ray cluster has no GPU for the trials\n")


def test_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    code, errors = ended(tmp_path, "ray", "--on", f"ray:{address}")
    (line,) = errors.splitlines()
    assert code == 1 and line.startswith(f"edgenode: cannot use the Ray cluster at {address}: ")
