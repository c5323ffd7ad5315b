"""Masked DiLoCo on devices: neighbours see noise, also of exchanges that are repeated, and all end with one model."""

from __future__ import annotations

import asyncio
import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from edgenode.errors import EdgenodeError
from edgenode.net.peer_calls import fetch_model
from edgenode.net.wire import Identity
from edgenode.simulate.simulation import Simulation
from tests.e2e.attacker import member
from tests.e2e.fleet import Fleet, Process, until

NODES = 4
RUN = {
    "run.cluster": f"e2e-masked-{os.getpid()}",
    "run.nodes": NODES,
    "run.rounds": 40,
    "run.checkpoint_every": 4,
    "algorithm.name": "masked-diloco",
    "task.local_steps": 2,
    "topology.graphs": ["complete"],
}
RECORDER = str(Path(__file__).with_name("recorder.py"))
SPOILER = str(Path(__file__).with_name("spoiler.py"))
pytestmark = [pytest.mark.slow, pytest.mark.group("masked")]


def models(folder: Path) -> list[dict[str, bytes]]:
    files = [folder / f"node-{i}" / "model.safetensors" for i in range(NODES)]
    return [{name: tensor.tobytes() for name, tensor in load_file(file).items()} for file in files]


def saves(fleet: Fleet, i: int, t: int) -> None:
    """Wait until a node has saved a round, or a later one."""
    folder = fleet.state(f"node-{i}") / "checkpoints"
    until(lambda: any(int(path.name[-9:]) >= t for path in folder.glob("round-*")), f"node-{i} saves round {t}")


def begins(node: Process) -> list[int]:
    """The rounds at which a process has begun to take part."""
    return [int(found) for found in re.findall(r"run begins .*?round=(\d+)", node.stderr)]


def is_noise(numbers: np.ndarray) -> bool:
    """Return whether all of the 255 values are about equally frequent: chi-square within 6 deviations of its mean."""
    counts, expected = np.bincount(numbers % 255, minlength=255), len(numbers) / 255
    return bool(abs(((counts - expected) ** 2 / expected).sum() - 254) < 6 * (2 * 254) ** 0.5)


def check_secret(fleet: Fleet) -> int:
    """Each message that was made is noise, and has a mask of its own. Return how many were of repeated rounds."""
    files = sorted((fleet.folder / "recorded").iterdir())
    arrays = [np.load(file) for file in files]
    masks, messages = ([a[kind].astype(np.int64) for a in arrays] for kind in ("mask", "message"))
    assert len({mask.tobytes() for mask in masks}) == len(masks) >= NODES * 40
    assert all(map(is_noise, messages))
    rounds = [file.stem.rpartition("-")[2] for file in files]
    pairs = [(i, j) for i, j in combinations(range(len(files)), 2) if rounds[i] == rounds[j]]
    assert all(is_noise(messages[i] - messages[j]) for i, j in pairs)
    return len(files) - NODES * 40


def test_run_has_the_bits_of_a_simulation_and_tells_noise(fleet: Fleet, tmp_path: Path) -> None:
    fleet.cluster = str(RUN["run.cluster"])
    config = fleet.configure(RUN)
    Simulation(config, tmp_path / "simulated").run()
    controller = fleet.controller()
    nodes = [fleet.node(f"node-{i}", program=[RECORDER]) for i in range(NODES)]
    for process in (*nodes, controller):
        process.exits(0)
    assert models(fleet.folder) == models(tmp_path / "simulated")
    assert check_secret(fleet) == 0


@pytest.mark.parametrize("controlled", [True, False])
def test_killed_member_comes_back_and_no_mask_is_used_twice(fleet: Fleet, controlled: bool) -> None:
    fleet.cluster = str(RUN["run.cluster"])
    fleet.configure(RUN)
    ports = free_ports(NODES)
    controller = [fleet.controller()] if controlled else []

    def start(i: int) -> Process:
        if controlled:
            return fleet.node(f"node-{i}", program=[RECORDER])
        peers = ",".join(f"127.0.0.1:{port}" for port in ports if port != ports[i])
        return fleet.node(f"node-{i}", "--peers", peers, listen=f"127.0.0.1:{ports[i]}", program=[RECORDER])

    nodes = [start(i) for i in range(NODES)]
    for t in (8, 20):
        saves(fleet, 1, t)
        nodes[1].kill()
        nodes[1] = start(1)
    for process in (*nodes, *controller):
        process.exits(0)
    assert len(begins(nodes[0])) == 3
    assert check_secret(fleet) > 0


def test_member_gets_no_model_of_a_node_that_would_tell_its_change(fleet: Fleet) -> None:
    """While a node waits for messages, its model is that after its own steps."""
    fleet.cluster = str(RUN["run.cluster"])
    config, ports = fleet.configure({**RUN, "run.rounds": 10_000}), free_ports(NODES)
    fleet.static(ports)
    saves(fleet, 0, 4)
    security = member(fleet.state("node-1"))
    neighbour = Identity(
        fleet.cluster, "node-1", config.digest(rounds=True), config=config.shared(rounds=True), security=security
    )
    with pytest.raises(EdgenodeError, match="this node shows no model, which would tell what its masked messages hide"):
        asyncio.run(fetch_model(f"127.0.0.1:{ports[0]}", neighbour, 1 << 30, 60, node="node-0"))


def test_others_go_on_without_a_member_but_not_below_three(fleet: Fleet) -> None:
    fleet.cluster = str(RUN["run.cluster"])
    fleet.configure(RUN)
    controller = fleet.controller()
    nodes = [fleet.node(f"node-{i}", program=[RECORDER]) for i in range(NODES)]
    saves(fleet, 0, 8)
    nodes[1].kill()
    fleet.command("evict", "node-1", "--force", "--yes", "--cluster", fleet.cluster)
    refused = fleet.command("evict", "node-2", "--force", "--yes", "--cluster", fleet.cluster, code=2)
    why = r"node-2 stays: without it 2 of \d members would be left, and masked messages need 3"
    assert re.search(why, refused.errors[-1])
    for process in (nodes[0], nodes[2], nodes[3], controller):
        process.exits(0)


def test_wrong_mask_of_a_member_ends_the_run_with_the_reason(fleet: Fleet) -> None:
    fleet.cluster = str(RUN["run.cluster"])
    fleet.configure(RUN)
    nodes = [fleet.node("node-0", program=[SPOILER]), *(fleet.node(f"node-{i}") for i in range(1, NODES))]
    fleet.controller().exits(1)
    why = r"node-\d takes no step in round 3: the masks of the messages do not cancel, so a member has sent a wrong one"
    for node in nodes:
        node.exits(1)
        assert re.search(why, node.errors[-1])
