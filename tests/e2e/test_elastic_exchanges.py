"""Nodes come to a run of DiLoCo that is under way, die in it, and come back to it, with or without their state."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.fleet import Fleet, Process, until

RUN = {
    "run.nodes": 4,
    "run.rounds": 160,
    "run.checkpoint_every": 10,
    "algorithm.name": "diloco",
    "task.local_steps": 2,
    "task.norm": "group",
    "topology.graphs": ["complete"],
}
WRONG_COPY = str(Path(__file__).with_name("wrong_copy.py"))
pytestmark = pytest.mark.group("fixed members")


def models(fleet: Fleet, names: Sequence[str]) -> list[dict[str, bytes]]:
    files = [fleet.state(name) / "model.safetensors" for name in names]
    return [{name: tensor.tobytes() for name, tensor in load_file(file).items()} for file in files]


def saves(fleet: Fleet, name: str, t: int) -> None:
    """Wait until a node has saved a round, or a later one."""
    folder = fleet.state(name) / "checkpoints"
    until(lambda: any(int(path.name[-9:]) >= t for path in folder.glob("round-*")), f"{name} saves round {t}")


def begins(node: Process) -> list[int]:
    """The rounds at which a process has begun to take part."""
    lines = [line for line in node.stderr.splitlines() if "run begins" in line]
    return [int(line.partition("round=")[2].split()[0]) for line in lines]


@pytest.mark.slow
def test_fifth_board_joins_four_and_all_end_with_one_model(fleet: Fleet) -> None:
    fleet.configure(RUN)
    controller, nodes = fleet.controller(), fleet.nodes(4)
    saves(fleet, "node-0", 20)
    nodes.append(fleet.node("node-9"))
    for process in (*nodes, controller):
        process.exits(0)
    found = models(fleet, ["node-0", "node-1", "node-2", "node-3", "node-9"])
    assert found == [found[0]] * 5
    assert [begins(node) for node in nodes[:4]] == [[0]] * 4
    (joined,) = begins(nodes[4])
    assert 20 < joined < 160


@pytest.mark.slow
def test_member_that_lost_its_state_comes_back(fleet: Fleet) -> None:
    fleet.configure(RUN)
    controller, nodes = fleet.controller(), fleet.nodes(4)
    saves(fleet, "node-1", 30)
    nodes[1].kill()
    shutil.rmtree(fleet.state("node-1"))
    nodes[1] = fleet.node("node-1")
    for process in (*nodes, controller):
        process.exits(0)
    found = models(fleet, [f"node-{i}" for i in range(4)])
    assert found == [found[0]] * 4
    begun = [begins(node) for node in nodes]
    assert begun[0] == begun[2] == begun[3] and begun[0][1] >= 20
    assert begun[1][0] > begun[0][1]


@pytest.mark.slow
def test_others_go_on_without_a_member_that_dies_and_it_comes_back(fleet: Fleet) -> None:
    """Nobody types anything. The run has no end, so that no start is too slow for it."""
    fleet.configure({**RUN, "run.nodes": 3, "run.rounds": 1_000_000, "run.evict_after_s": 3})
    controller, nodes = fleet.controller(), fleet.nodes(3)
    saves(fleet, "node-1", 30)
    nodes[1].kill()
    others = [nodes[0], nodes[2]]
    for node in others:
        node.logs("resuming from a checkpoint .*node-1 was evicted")
        until(lambda node=node: len(begins(node)) == 2, "the others go on")
    resumed = begins(nodes[0])[1]
    assert begins(nodes[2])[1] == resumed >= 20
    controller.logs("node does not answer .*node=node-1")
    saves(fleet, "node-0", resumed + 20)
    nodes[1] = fleet.node("node-1")
    until(lambda: begins(nodes[1]), lambda: f"node-1 takes part again\n{fleet.report()}")
    assert begins(nodes[1])[0] > resumed
    fleet.stop([*nodes, controller])
    found = models(fleet, ["node-0", "node-1", "node-2"])
    assert found == [found[0]] * 3


@pytest.mark.slow
def test_newcomer_refuses_the_copy_that_most_members_do_not_have(fleet: Fleet) -> None:
    fleet.configure(RUN)
    controller = fleet.controller()
    first = fleet.node("node-0", program=[WRONG_COPY, "1", "0"])
    nodes = [first, *(fleet.node(f"node-{i}", program=[WRONG_COPY, "0", "3"]) for i in range(1, 4))]
    saves(fleet, "node-0", 20)
    nodes.append(fleet.node("node-9"))
    nodes[4].logs("refused the copy of a member .*member=node-0 .*reason='2 of 4 members have another one'")
    for process in (*nodes, controller):
        process.exits(0)
    found = models(fleet, ["node-0", "node-1", "node-2", "node-3", "node-9"])
    assert found == [found[0]] * 5


@pytest.mark.slow
def test_run_goes_on_without_a_newcomer_that_finds_no_common_copy(fleet: Fleet) -> None:
    fleet.configure({**RUN, "run.nodes": 3, "run.evict_after_s": 3})
    controller = fleet.controller()
    nodes = [fleet.node(f"node-{i}", program=[WRONG_COPY, str(i), "0"]) for i in range(3)]
    saves(fleet, "node-0", 20)
    newcomer = fleet.node("node-9")
    (error,) = newcomer.exits(1).errors
    assert "no copy of node-0, node-1, node-2 is that of most of them" in error
    for process in (*nodes, controller):
        process.exits(0)
    found = models(fleet, ["node-0", "node-1", "node-2"])
    assert found == [found[0]] * 3
