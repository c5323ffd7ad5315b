"""`edgenode topology` against a running cluster: a change takes effect at one round, everywhere, or is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.fleet import Fleet, Process, until

EPOCH = re.compile(r"epoch done .*graph=(\S+) .*round=(\d+)")
EDGES = {
    "b": [["node-0", "node-3"], ["node-1", "node-0"], ["node-2", "node-1"], ["node-3", "node-2"]],
    "c": [["node-0", "node-2"], ["node-1", "node-3"], ["node-2", "node-1"], ["node-3", "node-0"]],
}


def started(fleet: Fleet, rounds: int) -> tuple[Process, list[Process]]:
    """A controller and four nodes that train on ring a."""
    fleet.configure({"run.rounds": rounds, "topology.graphs": ["a"]})
    controller = fleet.controller()
    nodes = fleet.nodes(4)
    for node in nodes:
        node.says("epoch done")
    return controller, nodes


def rotated(fleet: Fleet) -> int:
    """Ask for b and c in turns of five rounds; return the round from which on they are promised."""
    asked = fleet.command("topology", "rotate", "b,c", "--every", "5r", "--cluster", fleet.cluster)
    promise = re.fullmatch(r"graph b\+c takes effect at round (\d+) at every node\n", asked.stdout)
    assert promise, asked.stdout
    return int(promise[1])


def graph_at(t: int, start: int) -> str:
    return "a" if t < start else "bc"[(t - start) // 5 % 2]


def assert_switched(node: Process, start: int) -> None:
    """The node's log tells of one change, at that round, and every epoch used the graph it should have."""
    assert re.findall(r"plan changes .*at_round=(\d+) .*stops=False", node.stderr) == [str(start)]
    epochs = [(graph, int(end)) for graph, end in EPOCH.findall(node.stderr)]
    assert epochs == [(graph_at(end - 1, start), end) for _, end in epochs]
    assert epochs[0][1] <= start < epochs[-1][1]


@pytest.mark.timeout(60)
def test_a_rotation_takes_effect_at_the_promised_round_at_every_node(fleet: Fleet) -> None:
    controller, nodes = started(fleet, rounds=20_000)
    start = rotated(fleet)

    def shown() -> dict[str, Any] | None:
        show = json.loads(fleet.command("topology", "show", "--json", "--cluster", fleet.cluster).stdout)
        return show if show["round"] >= start else None

    show = until(shown, 30, f"the cluster is past round {start}")
    assert show["graph"] == graph_at(show["round"], start)
    assert show["edges"] == EDGES[show["graph"]]
    assert show["next"]["round"] == show["round"] + 5 - (show["round"] - start) % 5

    def all_past_it() -> bool:
        return all(int(EPOCH.findall(node.stderr)[-1][1]) > start for node in nodes)

    until(all_past_it, 20, "every node has ended an epoch after the change")
    fleet.command("stop", "--cluster", fleet.cluster)
    for process in (*nodes, controller):
        process.ended(0)
    for node in nodes:
        assert_switched(node, start)


@pytest.mark.timeout(60)
def test_a_change_that_was_accepted_happens_though_the_controller_is_killed(fleet: Fleet) -> None:
    controller, nodes = started(fleet, rounds=500)
    with nodes[3].held():
        start = rotated(fleet)
        controller.kill()

    for node in nodes:
        node.ended(0)
        assert_switched(node, start)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("running")) as fleet:
        started(fleet, rounds=1_000_000)
        yield fleet


RING = "node-0 node-1\nnode-1 node-2\nnode-2 node-3\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RING, r"open is not strongly connected: no path node-1->node-0, node-2->node-0, .*"),
        (RING + "node-3 node-9\n", r".*node-9.*"),
        (RING + "node-3 node-0\nnode-0 -> node-1\n", r"graph 'open' lists the edge node-0->node-1 twice"),
    ],
    ids=["not strongly connected", "unknown node", "duplicate edge"],
)
@pytest.mark.timeout(60)
def test_an_edge_list_that_cannot_be_is_refused_in_a_line(running: Fleet, text: str, reason: str) -> None:
    file = running.folder / "open.txt"
    file.write_text(text)
    refused = running.command("topology", "apply", str(file), "--cluster", running.cluster, code=2)
    assert re.fullmatch(f"edgenode: {reason}\n", refused.stderr)
    assert refused.stdout == ""


@pytest.mark.timeout(60)
def test_an_unknown_preset_is_refused_with_the_nearest(running: Fleet) -> None:
    refused = running.command("topology", "set", "exponentail", "--cluster", running.cluster, code=2)
    assert re.fullmatch(r"edgenode: no graph named 'exponentail'; did you mean 'exponential'\? .*\n", refused.stderr)
