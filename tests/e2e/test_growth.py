"""Daemons whose photo folder grows: killed and resumed to the bit, and killed and back as a newcomer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from edgenode.config.schema import Config
from edgenode.simulate.simulation import Simulation
from tests.e2e.fleet import Fleet, Process, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # it took 295 s on a busy machine

PASS = 20  # rounds of the first pass of each node
PHOTOS = 4 * PASS
RUN: dict[str, object] = {
    "run.nodes": 2, "run.rounds": 2000, "run.evaluate_every": 50, "task.dataset": "imagefolder", "task.batch_size": 4,
    "task.data_dir": "photos/{node}", "task.skew": 0, "topology.graphs": ["a"],
    "algorithm.gossip_graph": "complete",
}  # fmt: skip


def add_photos(folder: Path, first: int, count: int) -> None:
    """Add photos of two classes: bright and dark."""
    for number in range(first, first + count):
        label = ("bright", "dark")[number % 2]
        low, high = {"bright": (96, 256), "dark": (0, 160)}[label]
        pixels = np.random.default_rng(number).integers(low, high, (8, 8, 3), np.uint8)
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(fleet: Fleet) -> tuple[Config, Path]:
    """A run with photos for a pass on each of two nodes, and a few to test with."""
    for node in ("node-0", "node-1"):
        add_photos(fleet.folder / "photos" / node / "train", 0, PHOTOS)
        add_photos(fleet.folder / "photos" / node / "test", 1000, 10)
    return fleet.configure(RUN), fleet.folder / "photos"


def nodes_of(fleet: Fleet) -> Any:
    return json.loads(fleet.command("nodes", "--json", "--cluster", fleet.cluster).stdout)


def paused_within_a_pass(fleet: Fleet) -> int:
    """Pause the run. Return the round of node-0, which is neither the first nor the last of a pass."""
    where = ("--cluster", fleet.cluster)
    while True:
        fleet.command("pause", *where)

        def standing() -> int | None:
            nodes = nodes_of(fleet)
            return nodes[0]["round"] if all(node["state"] == "paused" for node in nodes) else None

        round_index: int = until(standing, "the nodes stand still")
        if 1 < round_index % PASS < PASS - 2:
            return round_index
        fleet.command("resume", *where)


def started(fleet: Fleet) -> list[Process]:
    return [fleet.controller(), *fleet.nodes(2)]


def test_killed_daemons_resume_to_the_bit(fleet: Fleet, photos: tuple[Config, Path]) -> None:
    config, folder = photos
    processes = started(fleet)
    processes[1].logs("epoch done")
    first = paused_within_a_pass(fleet)
    add_photos(folder / "node-0" / "train", 2000, 8)
    fleet.command("resume", "--cluster", fleet.cluster)
    processes[1].logs(f"the data changed .*samples={PHOTOS + 8} ")
    until(lambda: nodes_of(fleet)[0]["round"] > first + 3 * PASS, "a checkpoint with the new photos")
    for process in processes:
        process.kill()
    add_photos(folder / "node-0" / "train", 3000, 4)

    processes = started(fleet)
    for process in processes:
        process.exits(0)
    second = int(processes[1].logs(r"run begins .*round=(\d+)")[1])
    assert second > first
    assert "the data changed" in processes[1].stderr
    assert simulated(config, folder, {first: (2000, 8), second - 1: (3000, 4)}) == models(fleet.folder)


def simulated(config: Config, photos: Path, added: dict[int, tuple[int, int]]) -> dict[str, dict[str, bytes]]:
    """The models of an uninterrupted run that finds the same photos: those of node-0 after these rounds."""
    again = photos.parent / "again"
    for node in ("node-0", "node-1"):
        add_photos(again / "photos" / node / "train", 0, PHOTOS)
        add_photos(again / "photos" / node / "test", 1000, 10)
    task = msgspec.structs.replace(config.task, data_dir=str(again / "photos" / "{node}"))
    simulation = Simulation(msgspec.structs.replace(config, task=task), again)

    def after_round() -> None:
        if simulation.round in added:
            add_photos(again / "photos" / "node-0" / "train", *added.pop(simulation.round))

    simulation.run(after_round)
    assert not added
    return models(again)


def models(folder: Path) -> dict[str, dict[str, bytes]]:
    files = {name: load_file(folder / name / "model.safetensors") for name in ("node-0", "node-1")}
    return {name: {key: tensor.tobytes() for key, tensor in file.items()} for name, file in files.items()}


def test_killed_daemon_returns_with_the_new_photos(fleet: Fleet, photos: tuple[Config, Path]) -> None:
    _, folder = photos
    fleet.configure({**RUN, "run.rounds": 100_000, "run.evict_after_s": 2})  # the survivor alone must not end first
    controller, survivor, victim = started(fleet)
    survivor.logs("epoch done")
    add_photos(folder / "node-1" / "train", 2000, 8)
    victim.logs(f"the data changed .*samples={PHOTOS + 8} ")
    victim.kill()
    add_photos(folder / "node-1" / "train", 3000, 4)
    controller.logs("eviction committed")
    victim = fleet.node("node-1")
    victim.logs(rf"data loaded .*samples={PHOTOS + 12}\b")
    victim.logs("epoch done")
    add_photos(folder / "node-1" / "train", 4000, 4)
    victim.logs(f"the data changed .*samples={PHOTOS + 16} ")
    fleet.stop([controller, survivor, victim])
