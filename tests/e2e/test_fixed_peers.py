"""A run with fixed peers goes on when a node that died is back: without a controller, and bit-identical."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, Process, until

NODES = 4
# All runs share a cluster name, because it is part of the run digest. Other test processes have other names.
RUN = {
    "run.cluster": f"e2e-fixed-{os.getpid()}",
    "run.nodes": NODES,
    "run.rounds": 400,
    "topology.graphs": ["a", "b"],
    "algorithm.gossip_graph": "complete",
}
pytestmark = [pytest.mark.slow, pytest.mark.group("fixed peers")]
Models = list[dict[str, bytes]]


def models(fleet: Fleet) -> Models:
    files = [fleet.state(f"node-{i}") / "model.safetensors" for i in range(NODES)]
    return [{name: tensor.tobytes() for name, tensor in load_file(file).items()} for file in files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The models of a run without faults."""
    with Fleet(tmp_path_factory.mktemp("uninterrupted")) as fleet:
        fleet.configure(RUN)
        for process in fleet.static(free_ports(NODES)):
            process.exits(0)
        yield models(fleet)


class StaticRun:
    """The nodes of a run with fixed peers."""

    def __init__(self, fleet: Fleet) -> None:
        fleet.configure(RUN)
        self._fleet, self._ports = fleet, free_ports(NODES)
        self.nodes = fleet.static(self._ports)

    def kill(self, *victims: int) -> None:
        for i in victims:
            self.nodes[i].popen.kill()
        for i in victims:
            self.nodes[i].popen.wait()

    def start(self, *victims: int) -> None:
        """Start nodes again, with the same commands."""
        for i in victims:
            self.nodes[i] = self._fleet.static_node(self._ports, i)


def saves(fleet: Fleet, i: int, t: int) -> None:
    """Wait until a node has saved a round, or a later one."""
    folder = fleet.state(f"node-{i}") / "checkpoints"
    until(lambda: any(int(path.name[-9:]) >= t for path in folder.glob("round-*")), f"node-{i} saves round {t}")


def begins(node: Process) -> list[int]:
    """The rounds at which a process has begun to take part."""
    lines = [line for line in node.stderr.splitlines() if "run begins" in line]
    return [int(line.partition("round=")[2].split()[0]) for line in lines]


def test_node_that_was_killed_comes_back_twice(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    survivors = [run.nodes[i] for i in (0, 1, 3)]
    for t in (40, 120):
        saves(fleet, 2, t)
        run.kill(2)
        run.start(2)
    for node in run.nodes:
        node.exits(0)
    assert models(fleet) == uninterrupted
    for node in survivors:
        first, *later = begins(node)
        assert first == 0
        assert len(later) == 2
        assert all(later[k] >= t - 20 for k, t in enumerate((40, 120)))
        assert "node-2 at 127.0.0.1:" in node.logs("resuming from a checkpoint .*").group()
    assert begins(run.nodes[2]) == begins(survivors[0])[-1:]


def test_nodes_that_die_together_and_during_the_restart_come_back(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    saves(fleet, 0, 60)
    run.kill(1, 2)
    run.start(1)
    run.nodes[0].logs("resuming from a checkpoint")  # and waits for node-2
    run.kill(3)
    run.start(2)
    run.nodes[0].logs("waiting for a peer .*")
    run.kill(1)
    run.start(1, 3)
    for node in run.nodes:
        node.exits(0)
    assert models(fleet) == uninterrupted
    assert begins(run.nodes[0])[-1] >= 40


def test_node_that_was_killed_at_once_comes_back(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    run.nodes[2].logs("run begins")
    run.kill(2)
    run.start(2)
    for node in run.nodes:
        node.exits(0)
    assert models(fleet) == uninterrupted


def test_second_process_of_a_name_does_not_disturb_a_run(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    saves(fleet, 0, 20)
    twin = fleet.node(
        "node-2",
        *("--peers", ",".join(f"127.0.0.1:{port}" for i, port in enumerate(run._ports) if i != 2)),
        *("--state-dir", "twin"),
    )
    run.nodes[0].logs("another process has the name of a peer, and is not at its address")
    twin.kill()
    for node in run.nodes:
        node.exits(0)
    assert models(fleet) == uninterrupted
    assert all(begins(node) == [0] for node in run.nodes)


class Scripts:
    """Nodes of the example with a loop of its own, with fixed peers."""

    def __init__(self, fleet: Fleet) -> None:
        for name in ("train.py", "run.toml"):
            shutil.copy(Path(__file__).parents[2] / "examples" / "digits_gru" / name, fleet.folder)
        self._fleet, self._ports = fleet, free_ports(NODES)
        self.nodes = [self.start(i) for i in range(NODES)]

    def start(self, i: int) -> Process:
        settings = {"NODES": NODES, "ROUNDS": 300, "CHECKPOINT_EVERY": 20, "THREADS": 1, "CLUSTER": RUN["run.cluster"]}
        variables = {f"EDGENODE_RUN_{key}": str(value) for key, value in settings.items()}
        variables["EDGENODE_PEERS"] = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        variables["EDGENODE_LISTEN"] = f"127.0.0.1:{self._ports[i]}"
        return self._fleet.script(f"node-{i}", "train.py", "--part", f"{i}/{NODES}", variables=variables)


def test_loop_of_ones_own_returns_to_the_checkpoint_with_the_others(fleet: Fleet, tmp_path: Path) -> None:
    with Fleet(tmp_path / "undisturbed") as undisturbed:
        for node in Scripts(undisturbed).nodes:
            node.exits(0)
        expected = models(undisturbed)
    run = Scripts(fleet)
    saves(fleet, 1, 60)
    run.nodes[1].kill()
    run.nodes[1] = run.start(1)
    for node in run.nodes:
        node.exits(0)
    assert models(fleet) == expected
    assert begins(run.nodes[0])[1] >= 40
