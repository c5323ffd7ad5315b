"""Machines whose disk is full, and whose clock is wrong."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.crew import RUN, Crew, count
from tests.e2e.fleet import Fleet, Process, until

NODES = 2
TWO = {**RUN, "run.nodes": NODES}
NO_MOUNT = None if sys.platform.startswith("linux") and os.geteuid() == 0 else "a disk of its own needs root on Linux"
NO_FAKETIME = None if shutil.which("faketime") else "a clock of its own needs faketime (Debian: faketime)"


# --- disks ------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own in a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until nothing more goes in."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


@pytest.mark.skipif(NO_MOUNT is not None, reason=str(NO_MOUNT))
@pytest.mark.timeout(120)
def test_a_full_disk_stops_checkpoints_and_not_training(fleet: Fleet, seed: int) -> None:
    victim = random.Random(seed).randrange(NODES)
    folder = fleet.state(f"node-{victim}")
    warning = "training goes on without a new checkpoint"
    with small_disk(folder, "4m"):
        crew = Crew(fleet, fleet.configure({**TWO, "run.checkpoint_every": 10}))
        node = crew.nodes[victim]
        node.says("epoch=2 ")
        ballast = fill(folder)
        node.says(warning)
        crew.until_progress(crew.nodes, epochs=2)
        ballast.unlink()
        warned = count(node, warning)
        crew.until_progress(crew.nodes, epochs=2)
        crew.stop()
        assert count(node, warning) <= warned + 1  # of one that it had begun
        assert {change.without for change in crew.changes().values()} == {""}


@pytest.mark.skipif(NO_MOUNT is not None, reason=str(NO_MOUNT))
@pytest.mark.timeout(120)
def test_a_disk_that_is_full_at_the_end_is_one_clear_error(fleet: Fleet, seed: int) -> None:
    victim = random.Random(seed).randrange(NODES)
    folder = fleet.state(f"node-{victim}")
    with small_disk(folder, "4m"):
        crew = Crew(fleet, fleet.configure(TWO))
        crew.nodes[victim].says("epoch=2 ")
        fill(folder)
        crew.told_to_stop()
        for process in (*crew.others(victim), crew.controller):
            process.ended(0)
        node = crew.nodes[victim].ended(1)
        assert "Traceback" not in node.stderr
        assert "No space left" in node.errors[-1]


# --- clocks -----------------------------------------------------------------------------------------


@cache
def library() -> str:
    """What the faketime command preloads; it is preloaded without the command here, whose clock could not change."""
    found = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def with_clock(fake: dict[str, str], argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
    """Start a process whose time of day is not the machine's; its monotonic clock is.

    Waits for a condition are by that clock too: without the "fix" they are left alone.
    """
    preload = {"LD_PRELOAD": library(), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
    return subprocess.Popen(argv, **{**kwargs, "env": kwargs["env"] | preload | fake})


@pytest.mark.skipif(NO_FAKETIME is not None, reason=str(NO_FAKETIME))
@pytest.mark.timeout(120)
def test_clocks_may_be_wrong_and_jump(fleet: Fleet, tmp_path: Path, seed: int) -> None:
    """One node lives in 1970; another's clock jumps five hours ahead, and then ten years back."""
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

    crew = Crew(fleet, fleet.configure(TWO), node)
    crew.nodes[old].says(r"(?m)^00:0.* epoch done")
    hour = crew.nodes[jumper].says(r"(?m)^(\d\d):.* epoch done")[1]
    for jump in ("+5h", "-87607h"):  # the hours of the day tell them apart
        clock.write_text(jump)
        hour = says_at_another_hour(crew.nodes[jumper], hour)
        crew.until_progress(crew.nodes)
    crew.stop()
    assert {change.without for change in crew.changes().values()} == {""}


def says_at_another_hour(node: Process, hour: str) -> str:
    def told() -> str:
        return node.stderr.splitlines()[-1][:2]

    until(lambda: told() != hour, 20, lambda: f"{node.name} has another clock\n{node.tail()}")
    return told()
