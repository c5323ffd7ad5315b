"""Machines with a full disk or a wrong clock."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.live_run import RUN, LiveRun, count
from tests.e2e.fleet import Fleet, Process, until

NODES = 2
TWO = {**RUN, "run.nodes": NODES}
pytestmark = pytest.mark.slow
NO_MOUNT = None if sys.platform.startswith("linux") and os.geteuid() == 0 else "a disk of its own needs root on Linux"
NO_FAKETIME = None if shutil.which("faketime") else "a clock of its own needs faketime (Debian: faketime)"


# --- disks ------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of this size on a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def shown(fleet: Fleet, i: int) -> str:
    """Why a node cannot save, as the status has it."""
    nodes = json.loads(fleet.command("nodes", "--json", "--cluster", fleet.cluster).stdout)
    return next(str(node["save_error"]) for node in nodes if node["node"] == f"node-{i}")


@pytest.mark.skipif(NO_MOUNT is not None, reason=str(NO_MOUNT))
def test_full_disk_stops_checkpoints_and_not_training(fleet: Fleet, seed: int) -> None:
    victim = random.Random(seed).randrange(NODES)
    folder = fleet.state(f"node-{victim}")
    warning = "training continues without saving"
    with small_disk(folder, "4m"):
        run = LiveRun(fleet, fleet.configure({**TWO, "run.checkpoint_every": 10}))
        node = run.nodes[victim]
        node.logs("epoch=2 ")
        assert shown(fleet, victim) == ""
        ballast = fill(folder)
        node.logs(warning)
        run.controller.logs(f"node cannot save .*node=node-{victim} .*No space left")
        run.until_progress(run.nodes, epochs=2)
        assert "No space left" in shown(fleet, victim)
        table = " ".join(fleet.command("status", "--cluster", fleet.cluster).stdout.split())
        assert "running, cannot save" in table and f"node-{victim} cannot save for " in table
        ballast.unlink()
        run.controller.logs(f"node saves again .*node=node-{victim}")
        assert shown(fleet, victim) == ""
        warned = count(node, warning)
        run.until_progress(run.nodes, epochs=2)
        run.stop()
        assert count(node, warning) <= warned + 1  # of a checkpoint that it had begun
        assert {change.without for change in run.changes().values()} == {""}


@pytest.mark.skipif(NO_MOUNT is not None, reason=str(NO_MOUNT))
def test_full_disk_at_the_end_is_one_clear_error(fleet: Fleet, seed: int) -> None:
    victim = random.Random(seed).randrange(NODES)
    folder = fleet.state(f"node-{victim}")
    with small_disk(folder, "4m"):
        run = LiveRun(fleet, fleet.configure(TWO))
        run.nodes[victim].logs("epoch=2 ")
        fill(folder)
        run.request_stop()
        for process in (*run.others(victim), run.controller):
            process.exits(0)
        node = run.nodes[victim].exits(1)
        assert "Traceback" not in node.stderr
        assert "No space left" in node.errors[-1]


# --- clocks -----------------------------------------------------------------------------------------


@cache
def library() -> str:
    """Return the library that the faketime command preloads. Without the command, the clock can change."""
    found = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def with_clock(fake: dict[str, str], argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
    """Start a process with its own time of day and the machine's monotonic clock.

    Waits for a condition use the monotonic clock too, and the "fix" would change them.
    """
    preload = {"LD_PRELOAD": library(), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
    return subprocess.Popen(argv, **{**kwargs, "env": kwargs["env"] | preload | fake})


@pytest.mark.skipif(NO_FAKETIME is not None, reason=str(NO_FAKETIME))
def test_clocks_may_be_wrong_and_jump(fleet: Fleet, tmp_path: Path, seed: int) -> None:
    """The clock of one node is in 1970. Another jumps five hours ahead, and then ten years back."""
    old, jumper = random.Random(seed).sample(range(NODES), 2)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    fakes = {
        old: {"FAKETIME": "@1970-01-02 00:00:00"},
        jumper: {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_CACHE_DURATION": "1"},
    }

    def node(i: int, *arguments: str) -> Process:
        spawn = partial(with_clock, fakes[i]) if i in fakes else subprocess.Popen
        return fleet.node(f"node-{i}", *arguments, spawn=spawn)

    run = LiveRun(fleet, fleet.configure(TWO), node)
    run.nodes[old].logs(r"(?m)^00:0.* epoch done")
    hour = run.nodes[jumper].logs(r"(?m)^(\d\d):.* epoch done")[1]
    for jump in ("+5h", "-87607h"):  # the hours of the day tell them apart
        clock.write_text(jump)
        hour = next_hour(run.nodes[jumper], hour)
        run.until_progress(run.nodes)
    run.stop()
    assert {change.without for change in run.changes().values()} == {""}


@pytest.mark.skipif(NO_FAKETIME is not None, reason=str(NO_FAKETIME))
def test_clock_far_ahead_is_named_by_the_log_and_by_doctor(fleet: Fleet) -> None:
    """All certificates have expired by the clock of one node."""
    fleet.configure(TWO)
    ahead = partial(with_clock, {"FAKETIME": "+100d"})
    controller = fleet.controller()
    address = controller.logs(r"controller ready .*listen=(\S+)")[1]
    node = fleet.node("node-0", "--controller", address, spawn=ahead)
    clock = r"this device's clock says \d{4}-\d\d-\d\d \d\d:\d\d UTC, and the certificate of "
    node.logs(clock + r"this device is valid until \d{4}-\d\d-\d\d: set the clock")
    node.logs(f"cannot reach the controller .*{clock}the other is not valid then: set the clock")
    where = "--controller", address, "--state-dir", str(fleet.state("node-0"))
    doctor = fleet.command("doctor", "--config", "run.toml", *where, code=1, spawn=ahead)
    found = {line.split()[1]: line for line in doctor.stdout.splitlines()[:-1]}
    assert re.search(rf"problem .*{clock}this device is valid until", found["clock"])
    assert re.search(rf"problem .*{clock}this device .*: compare the clocks of both devices", found["controller"])
    assert "firewall" not in found["controller"]
    for process in (node, doctor):
        assert not re.search(r"TSI_|SSL_ERROR|ssl_transport|Traceback", process.stdout + process.stderr)


def next_hour(node: Process, hour: str) -> str:
    """Wait until a node logs at another hour, and return it."""

    def logged() -> str:
        return node.stderr.splitlines()[-1][:2]

    until(lambda: logged() != hour, lambda: f"{node.name} has another clock\n{node.tail()}")
    return logged()
