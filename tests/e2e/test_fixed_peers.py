"""A run with fixed peers goes on when a node that died is back: without a controller, and bit-identical."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from safetensors.numpy import load_file

from edgenode.bench.ring import free_ports
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
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fixed peers")]
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

    def saves(self, i: int, t: int) -> None:
        """Wait until a node has saved a round, or a later one."""
        folder = self._fleet.state(f"node-{i}") / "checkpoints"
        until(lambda: any(int(path.name[-9:]) >= t for path in folder.glob("round-*")), f"node-{i} saves round {t}")


def begins(node: Process) -> list[int]:
    """The rounds at which a process has begun to take part."""
    lines = [line for line in node.stderr.splitlines() if "run begins" in line]
    return [int(line.partition("round=")[2].split()[0]) for line in lines]


def test_node_that_was_killed_comes_back_twice(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    survivors = [run.nodes[i] for i in (0, 1, 3)]
    for t in (40, 120):
        run.saves(2, t)
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
        assert "node-2 at 127.0.0.1:" in node.logs("resuming from a checkpoint with it .*").group()
    assert begins(run.nodes[2]) == begins(survivors[0])[-1:]


def test_nodes_that_die_together_and_during_the_restart_come_back(fleet: Fleet, uninterrupted: Models) -> None:
    run = StaticRun(fleet)
    run.saves(0, 60)
    run.kill(1, 2)
    run.start(1)
    run.nodes[0].logs("resuming from a checkpoint with it")  # and waits for node-2
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
    run.saves(0, 20)
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
