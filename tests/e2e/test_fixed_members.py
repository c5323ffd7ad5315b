"""DiLoCo under a controller: members are found by mDNS and fixed. Runs equal those with fixed peers, to the bit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, Process, until

NODES = 3
# All runs share a cluster name, because it is part of the run digest. Other test processes have other names.
RUN = {
    "run.cluster": f"e2e-diloco-{os.getpid()}",
    "run.nodes": NODES,
    "run.rounds": 160,
    "run.checkpoint_every": 10,
    "run.evict_after_s": 300,  # a killed member is waited for, however long it takes to start
    "algorithm.name": "diloco",
    "task.local_steps": 2,
    "topology.graphs": ["doubling"],
}
DIES_AT_ITS_END = str(Path(__file__).with_name("dies_at_its_end.py"))
pytestmark = pytest.mark.group("fixed members")
Models = list[dict[str, bytes]]


def models(fleet: Fleet, nodes: Sequence[int] = range(NODES)) -> Models:
    files = [fleet.state(f"node-{i}") / "model.safetensors" for i in nodes]
    return [{name: tensor.tobytes() for name, tensor in load_file(file).items()} for file in files]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """The models of a run with fixed peers, without faults."""
    with Fleet(tmp_path_factory.mktemp("uninterrupted")) as fleet:
        fleet.configure(RUN)
        for process in fleet.static(free_ports(NODES)):
            process.exits(0)
        yield models(fleet)


@pytest.fixture
def started(fleet: Fleet) -> tuple[Fleet, Process, list[Process]]:
    """A run under a controller."""
    fleet.cluster = str(RUN["run.cluster"])
    fleet.configure(RUN)
    return fleet, fleet.controller(), fleet.nodes(NODES)


def saves(fleet: Fleet, i: int, t: int) -> None:
    """Wait until a node has saved a round, or a later one."""
    folder = fleet.state(f"node-{i}") / "checkpoints"
    until(lambda: any(int(path.name[-9:]) >= t for path in folder.glob("round-*")), f"node-{i} saves round {t}")


def begins(node: Process) -> list[int]:
    """The rounds at which a process has begun to take part."""
    lines = [line for line in node.stderr.splitlines() if "run begins" in line]
    return [int(line.partition("round=")[2].split()[0]) for line in lines]


@pytest.mark.slow
def test_operator_steers_it_and_what_is_impossible_is_refused(
    started: tuple[Fleet, Process, list[Process]], uninterrupted: Models
) -> None:
    fleet, controller, nodes = started
    saves(fleet, 0, 20)
    fleet.command("pause", "--cluster", fleet.cluster)
    refused = fleet.command("topology", "set", "complete", "--cluster", fleet.cluster, code=2)
    assert "diloco needs every member of this run, and its graph" in refused.errors[-1]
    refused = fleet.command("extend", "--rounds", "161", "--cluster", fleet.cluster, code=2)
    assert "an exchange takes 2 rounds, so 161 must be a multiple of 2" in refused.errors[-1]
    fleet.command("resume", "--cluster", fleet.cluster)
    for process in (*nodes, controller):
        process.exits(0)
    assert models(fleet) == uninterrupted == [uninterrupted[0]] * NODES
    assert all(begins(node) == [0] for node in nodes)


@pytest.mark.slow
def test_killed_member_comes_back_and_all_resume(
    started: tuple[Fleet, Process, list[Process]], uninterrupted: Models
) -> None:
    fleet, controller, nodes = started
    for t in (40, 80):
        saves(fleet, 1, t)
        nodes[1].kill()
        nodes[1] = fleet.node("node-1")
    for process in (*nodes, controller):
        process.exits(0)
    assert models(fleet) == uninterrupted
    assert nodes[0].logs("resuming from a checkpoint .*").group().count("node-1 restarted")
    first, *later = begins(nodes[0])
    assert first == 0
    assert len(later) == 2
    assert all(0 < t < 160 for t in later)


@pytest.mark.slow
@pytest.mark.parametrize("alive", [True, False])
def test_others_go_on_without_a_member_that_is_given_up_and_it_comes_back(fleet: Fleet, alive: bool) -> None:
    # It is stopped, so no start is too slow.
    fleet.configure(RUN | {"run.cluster": fleet.cluster, "run.rounds": 1_000_000})
    controller, nodes = fleet.controller(), fleet.nodes(NODES)
    saves(fleet, 0, 40)
    if not alive:
        nodes[1].kill()
    evicted = fleet.command("evict", "node-1", "--yes", "--cluster", fleet.cluster)
    assert "the run continues without node-1 from round" in evicted.stdout
    before = 1 if alive else 0  # begins of the process that comes back
    if not alive:
        nodes[1] = fleet.node("node-1")
    until(lambda: len(begins(nodes[1])) > before, lambda: f"node-1 takes part again\n{fleet.report()}")
    for node in (nodes[0], nodes[2]):
        node.logs("resuming from a checkpoint .*node-1 was evicted")
        assert begins(node)[1] >= 30
    assert begins(nodes[1])[-1] > begins(nodes[0])[1]
    fleet.stop([*nodes, controller])
    found = models(fleet)
    assert found == [found[0]] * NODES


@pytest.mark.slow
def test_stopped_run_has_one_model_and_resumes(
    started: tuple[Fleet, Process, list[Process]], uninterrupted: Models
) -> None:
    fleet, controller, nodes = started
    saves(fleet, 0, 20)
    fleet.stop([*nodes, controller])
    stopped = models(fleet)
    assert stopped == [stopped[0]] * NODES
    for process in (*fleet.nodes(NODES), fleet.controller()):
        process.exits(0)
    assert models(fleet) == uninterrupted


@pytest.mark.slow
def test_members_that_have_ended_stay_for_one_that_died_in_its_last_round(fleet: Fleet, uninterrupted: Models) -> None:
    fleet.cluster = str(RUN["run.cluster"])
    fleet.configure(RUN)
    controller = fleet.controller()
    ended = [fleet.node("node-0"), fleet.node("node-2")]
    fleet.node("node-1", program=[DIES_AT_ITS_END]).exits(9)
    for node in ended:
        node.logs("staying until all members have ended")
    returned = fleet.node("node-1")
    for process in (*ended, returned, controller):
        process.exits(0)
    assert models(fleet) == uninterrupted
    assert all("resuming from a checkpoint" in node.stderr for node in ended)
