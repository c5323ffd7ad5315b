"""edgenode launch: real processes of a script, with a controller."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psutil import Process as SystemProcess
from psutil import wait_procs

from edgenode.cli.launch import Fleet
from edgenode.cli.launched import Launch, ended_here, launches_here, noted
from edgenode.cli.scripts import Script
from edgenode.config.schema import Config

COMMAND = [sys.executable, "-m", "edgenode", "launch"]
SHOW = """
import os, sys
keys = ("NAME", "CONTROLLER", "STATE_DIR", "LISTEN", "RUN_NODES", "RUN_ROUNDS", "CONFIG")
print(*sys.argv[1:], *(f"{key}={os.environ.get('EDGENODE_' + key)}" for key in keys), flush=True)
"""
WAIT_AND_FAIL = """
import time
from pathlib import Path
if sys.argv[1] == "0/2":
    Path("shown").touch()
    time.sleep(60)
while not Path("shown").exists():
    time.sleep(0.05)
sys.exit(3)
"""


@pytest.fixture(autouse=True, scope="module")
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's other launches and credentials have no effect."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, cwd=folder, check=False)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A launch whose second process fails once both have shown their environment. It shows that the others end."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "run.toml").write_text("[run]\nrounds = 7\n")
    (folder / "train.py").write_text(SHOW + WAIT_AND_FAIL)
    arguments = (
        "--nodes",
        "2",
        "--set",
        "run.seed=5",
        "--out",
        "out",
        "train.py",
        "--",
        "{index}/{nodes}",
        "--x={name}",
    )
    return folder, launch(folder, *arguments)


def test_every_process_has_a_place_of_its_own(failed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = failed
    for i in range(2):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"node-{i} | {i}/2 ")]
        assert f"--x=node-{i} NAME=node-{i} CONTROLLER=127.0.0.1:" in line
        assert f"STATE_DIR={folder / 'out' / f'node-{i}'} LISTEN=127.0.0.1:0 RUN_NODES=2" in line
        assert line.endswith(f"CONFIG={folder / 'run.toml'}")
    assert "controller | " in done.stdout


def test_one_that_fails_ends_all(failed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = failed
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "edgenode: node-1 ended with exit code 3; its last lines are above"
    assert "edgenode: follow this run with: edgenode watch (in this folder; elsewhere: edgenode watch " in done.stderr


@pytest.mark.slow
def test_a_process_that_fails_starts_again(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    done = launch(tmp_path, "--nodes", "1", "--max-restarts", "2", "train.py")
    assert done.returncode == 1
    assert done.stderr.count("edgenode: node-0 was killed by SIGKILL, and starts again") == 2
    assert done.stderr.splitlines()[-1] == "edgenode: node-0 was killed by SIGKILL; its last lines are above"


@pytest.mark.slow
@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_ends_all(tmp_path: Path, interrupts: int) -> None:
    wait = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" if interrupts == 2 else "import time\n"
    (tmp_path / "train.py").write_text(f"{wait}print('ready', flush=True)\ntime.sleep(60)\n")
    running = subprocess.Popen([*COMMAND, "--nodes", "2", "train.py"], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert running.stdout is not None
    for _ in range(2):
        assert any("ready" in line for line in running.stdout)
    children = SystemProcess(running.pid).children()
    assert len(children) == 3
    for _ in range(interrupts):
        running.send_signal(signal.SIGINT)
        time.sleep(1)
    assert running.wait(30) == 130
    running.stdout.close()
    _, alive = wait_procs(children, timeout=10)  # the system may need a moment to remove what was killed
    assert not alive


def in_folder(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "edgenode", *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


@pytest.mark.slow
def test_commands_in_its_folder_need_no_credentials(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    command = [*COMMAND, "--nodes", "1", "--set", "run.cluster=mine", "--out", "elsewhere/out", "train.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        try:
            assert running.stdout is not None
            assert any("ready" in line for line in running.stdout)
            status = in_folder(tmp_path, "status", "--json")
            assert json.loads(status.stdout)["cluster"] == "mine", status.stderr
            stop = in_folder(tmp_path, "stop")
            assert "the run has not started: it waits for 1 more node" in stop.stderr  # that is the controller's answer
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=30)
    ended = in_folder(tmp_path, "stop")
    again = "edgenode launch --nodes 1 --set run.cluster=mine --out elsewhere/out train.py"
    assert f"the launch in this folder has ended (before its run began); to resume it: {again}; for" in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_place_of_a_tracker_is_in_no_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine reads command lines. The words of `edgenode launch` itself are the user's own."""
    (tmp_path / "train.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    monkeypatch.setenv("EDGENODE_TRACK", "tensorboard:with-a-password")
    command = [*COMMAND, "--nodes", "1", "--out", "out", "train.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as running:
        try:
            assert running.stdout is not None
            assert "node-0 | ready\n" in running.stdout
            words = {path.parent: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
            assert [line for line in words.values() if b"with-a-password" in line] == []
            (controller,) = (path for path, line in words.items() if bytes(tmp_path / "out" / "controller") in line)
            assert b"EDGENODE_TRACK=tensorboard:with-a-password" in (controller / "environ").read_bytes()
        finally:
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=30)


def test_ctrl_c_while_the_controller_becomes_ready_starts_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in one turn of the loop: asyncio.wait_for of Python 3.11 forgets the interruption."""

    async def is_ready_and_interrupted(fleet: Fleet, address: asyncio.Future[str]) -> None:
        address.set_result("127.0.0.1:7700")
        interrupted.cancel()

    async def interrupts() -> None:
        nonlocal interrupted
        interrupted = asyncio.create_task(fleet.run())
        with pytest.raises(asyncio.CancelledError):
            await interrupted

    interrupted: asyncio.Task[None]
    monkeypatch.setattr("edgenode.cli.launch.prepare", lambda *_: None)
    monkeypatch.setattr(Fleet, "_control", is_ready_and_interrupted)
    fleet = Fleet(Config(), Path(), Script("train.py", False, ()), {}, max_restarts=0, track="", again="")
    asyncio.run(interrupts())
    assert not fleet.has_begun


def test_launches_are_found_as_long_as_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    ours = Launch("ours", "127.0.0.1:7700", tmp_path / "operator.pem", "edgenode launch train.py")
    other = replace(ours, cluster="other")
    with noted(ours) as found:
        assert found
        assert (launches_here(), ended_here()) == ([ours], None)
        (entry,) = (tmp_path / "state").rglob("*.json")
        killed = entry.with_name(entry.name.replace("-", "-1"))  # it has no lock
        killed.write_text(entry.read_text().replace("ours", "other"))
        assert (launches_here(), ended_here()) == ([ours], other)
        monkeypatch.chdir(tmp_path / "state")
        assert (launches_here(), ended_here()) == ([], None)
        monkeypatch.chdir(tmp_path)
    killed.unlink()
    assert (launches_here(), ended_here()) == ([], ours)


def test_ended_launch_is_forgotten_at_the_next_or_with_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    first, second = (Launch(name, "127.0.0.1:7700", tmp_path / name, "edgenode launch") for name in ("a", "b"))
    for launch, folder in ((first, tmp_path), (second, tmp_path / "state")):
        launch.credentials.touch()
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        with noted(launch):
            pass
    assert ended_here() == second
    first.credentials.unlink()
    with noted(replace(second, cluster="c")):
        assert len([*(tmp_path / "state").rglob("*.json")]) == 1
    assert ended_here() == replace(second, cluster="c")


def test_a_launch_runs_without_a_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with noted(Launch("ours", "127.0.0.1:7700", tmp_path, "")) as found:
        assert not found
    assert launches_here() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("nowhere.py",), "nowhere.py is not a file; a module needs -m"),
        (("--nodes", "0", "train.py"), "Invalid value for '--nodes'"),
        (("--set", "run.rounds=many", "train.py"), 'run.rounds = "many", but it must be a whole number'),
        ((), "Missing argument 'SCRIPT'"),
    ],
)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    done = launch(tmp_path, *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_that_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    done = launch(tmp_path, "--nodes", "2", "--set", 'topology.graphs=["rign"]', "train.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no graph named 'rign'" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


@pytest.mark.slow
@pytest.mark.parametrize("out", [(), ("--out", "out")])
def test_controller_that_does_not_start_leaves_no_results(
    tmp_path: Path, out: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of --out stays: it may be that of an earlier run."""
    (tmp_path / "train.py").touch()
    monkeypatch.setenv("EDGENODE_LOG_FORMAT", "xml")
    done = launch(tmp_path, "--nodes", "1", *out, "train.py")
    assert done.returncode == 1
    assert "Invalid value for '--log-format'" in done.stdout
    assert done.stderr == "edgenode: the controller ended with exit code 2; its last lines are above\n"
    assert list((tmp_path / "runs").glob("*")) == []
    assert (tmp_path / "out").exists() == bool(out)
