"""An error before a run begins is one line on stderr and exit code 2. Help is instant."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from tests.e2e.fleet import Fleet

ANY = ("--insecure", "--listen", "127.0.0.1:0", "--wait", "1", "--state-dir", "state")


def saved(folder: Path, config: Config) -> None:
    """Write a checkpoint of round 40."""
    plan = create_plan(config.run.cluster, [Member("a"), Member("b")], factory.schedule(config))
    state = State.initial(np.zeros(3, np.float32))
    folder.mkdir(mode=0o700)
    store = CheckpointStore(folder, config.digest(), config=config.shared())
    store.save(Checkpoint(40, state, plan, {}, {}))


def refused(fleet: Fleet, *arguments: str) -> str:
    """Run a command that must end with exit code 2, and return its one line."""
    process = fleet.command(*arguments, code=2)
    (line,) = process.errors
    assert process.stdout == ""
    assert line.startswith("edgenode: ")
    return line.removeprefix("edgenode: ")


@pytest.mark.parametrize("command", ["run", "controller"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[run\n", r"run\.toml: not valid TOML: .* \(at line 1, column 5\)"),
        ('[run]\nrounds = "3"\n', r'run\.toml: run\.rounds = "3", but it must be a whole number, 1 or more'),
        ("[run]\nround = 3\n", r"run\.toml: unknown key run\.round = 3; did you mean run\.rounds\?"),
        (
            "[algorithm]\nshare = 0.01\naveraging_rate = 0.2\n",
            r"run\.toml: algorithm\.averaging_rate = 0\.2, but it must be at most 0\.05, five times .*",
        ),
    ],
    ids=["bad TOML", "wrong type", "unknown key", "averaging rate above 5 p"],
)
def test_invalid_run_toml_is_refused(fleet: Fleet, command: str, text: str, reason: str) -> None:
    (fleet.folder / "run.toml").write_text(text)
    assert re.fullmatch(reason, refused(fleet, command, "--config", "run.toml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["task.dataset=digit"], r"dataset 'digit' is unknown: did you mean 'digits'\? .*"),
        (["task.model=small-cn"], r"model 'small-cn' is unknown: did you mean 'small-cnn'\? .*"),
        (
            ["task.dataset=cifar10", "task.data_dir=/nowhere"],
            r"task\.data_dir /nowhere of .*'cifar10' is not a folder .*",
        ),
    ],
    ids=["no such data set", "no such model", "no data folder"],
)
def test_unknown_task_is_refused_before_any_wait(fleet: Fleet, settings: list[str], reason: str) -> None:
    flags = [word for setting in settings for word in ("--set", setting)]
    assert re.fullmatch(reason, refused(fleet, "run", *ANY, *flags))


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "controller"])
def test_port_in_use_is_refused(fleet: Fleet, command: str, taken: str) -> None:
    assert (
        refused(fleet, command, "--insecure", "--listen", taken) == f"cannot listen on {taken}: address already in use"
    )


@pytest.mark.slow
def test_node_without_a_controller_names_where_it_searched(fleet: Fleet) -> None:
    fleet.configure()
    line = refused(fleet, "run", "--config", "run.toml", *ANY)
    searched, _, _ = line.partition("; saw other clusters: ")  # other tests may run on this machine
    assert searched == (
        f"no controller of cluster '{fleet.cluster}' found in 1 s: "
        "searched for _edgenode-ctl._tcp.local. by mDNS on 127.0.0.1"
    )


def test_status_without_a_controller_names_where_it_searched(fleet: Fleet) -> None:
    search, line = fleet.command("status", "--cluster", fleet.cluster, code=2).errors
    cluster = f"controller of cluster '{fleet.cluster}'"
    assert search.startswith(f"edgenode: looking for a {cluster} by mDNS on ")
    assert line.startswith(f"edgenode: no {cluster} found in 5 s: searched for _edgenode-ctl._tcp")
    assert "127.0.0.1" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "controller"])
def test_unusable_state_folder_is_refused_before_any_wait(fleet: Fleet, command: str) -> None:
    (fleet.folder / "state").write_text("a file")
    where = ("--insecure", "--listen", "127.0.0.1:0", "--state-dir")
    reason = "cannot be used: it, or a folder above it, is a file"
    assert refused(fleet, command, *where, "state") == f"--state-dir state {reason}"
    assert refused(fleet, command, *where, "state/below") == f"--state-dir state/below {reason}"
    assert refused(fleet, command, "--state-dir", "state") == f"--state-dir state {reason}"
    assert refused(fleet, command, *where, "/proc/self/fd").startswith("--state-dir /proc/self/fd cannot be written: ")
    if command == "controller":
        beyond = refused(fleet, command, *where, "other", "--http", "0.0.0.0:0")
        assert beyond.startswith("--insecure works on loopback only, but --http is 0.0.0.0:0")
    assert (fleet.folder / "state").read_text() == "a file"


@pytest.mark.slow
def test_state_folder_of_another_daemon_is_refused(fleet: Fleet) -> None:
    fleet.configure()
    waiting = fleet.node("pi-1", "--state-dir", "state", "--wait", "100")
    waiting.logs("listening")
    busy = "--state-dir state is in use by another process: choose another"
    assert refused(fleet, "run", "--name", "pi-1", *ANY) == busy
    assert refused(fleet, "run", "--name", "pi-2", "--fresh", *ANY) == busy
    waiting.kill()
    others = "--state-dir state belongs to node pi-1, and this is {}: choose another, or remove its file owner"
    assert refused(fleet, "run", "--name", "pi-2", "--fresh", *ANY) == others.format("node pi-2")
    assert refused(
        fleet, "controller", "--insecure", "--listen", "127.0.0.1:0", "--state-dir", "state"
    ) == others.format("a controller")
    (fleet.state("state") / "owner").unlink()
    assert (
        "no controller"
        in fleet.command("run", "--name", "pi-2", "--set", f"run.cluster={fleet.cluster}", *ANY, code=2).errors[-1]
    )


@pytest.mark.slow
def test_new_run_keeps_the_checkpoints_of_another(fleet: Fleet) -> None:
    saved(fleet.state("state"), fleet.configure({"run.seed": 1}))
    fleet.configure()
    line = refused(fleet, "run", "--config", "run.toml", *ANY)
    assert line == (
        "state/checkpoints/round-000000040 is of another run: in this one run.seed is 0, not 1; "
        "discard it with --fresh, or choose another --state-dir"
    )
    process = fleet.command("run", "--config", "run.toml", "--fresh", *ANY, code=2)
    assert "no controller of cluster" in process.errors[-1]
    assert not (fleet.state("state") / "checkpoints").exists()


@pytest.mark.slow
def test_damaged_checkpoint_is_skipped_by_name(fleet: Fleet) -> None:
    saved(fleet.state("state"), fleet.configure())
    (fleet.state("state") / "checkpoints" / "round-000000040" / "meta.json").write_text("{")
    process = fleet.command("run", "--config", "run.toml", *ANY, code=2)
    assert re.search(r"skipping a checkpoint .*round-000000040 is damaged", process.stderr)
    assert "no intact checkpoint: joining without one" in process.stderr
    assert "no controller of cluster" in process.errors[-1]


# --- help -----------------------------------------------------------------------------------------------


HELP = """
import sys
before = set(sys.modules)
from edgenode.cli import group
group(["--help"], standalone_mode=False)
packages = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(packages - sys.stdlib_module_names), file=sys.stderr)
"""


def test_help_is_instant() -> None:
    """It imports nothing that takes long, as torch, grpc and pydantic do."""
    process = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True)
    assert "Usage: " in process.stdout
    assert process.stderr.split() == ["click", "edgenode"]
