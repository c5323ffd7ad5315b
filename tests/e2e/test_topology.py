"""`edgenode topology` on a running cluster: a change takes effect at the same round at every node, or is refused."""

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


def started(fleet: Fleet, rounds: int, nodes: int, *, paced: bool = False) -> tuple[Process, list[Process]]:
    """Start a controller and nodes, and wait until all train on ring a."""
    settings = {"run.rounds": rounds, "run.nodes": nodes, "algorithm.gossip_graph": "complete"}
    fleet.configure({**settings, "topology.graphs": ["a"]}, paced=paced)
    controller = fleet.controller()
    training = fleet.nodes(nodes)
    for node in training:
        node.logs("epoch done")
    return controller, training


def rotated(fleet: Fleet) -> int:
    """Rotate b and c every five rounds, and return the round from which the answer promises it."""
    answer = fleet.command("topology", "rotate", "b,c", "--every", "5r", "--cluster", fleet.cluster).stdout
    promise = re.fullmatch(r"graph b\+c takes effect at round (\d+) at every node\n", answer)
    assert promise, answer
    return int(promise[1])


def graph_at(t: int, start: int) -> str:
    return "a" if t < start else "bc"[(t - start) // 5 % 2]


def assert_switched(node: Process, start: int) -> None:
    """Assert that the node logged one change, at that round, and that every epoch used the right graph."""
    assert re.findall(r"plan changes .*at_round=(\d+) .*stops=False", node.stderr) == [str(start)]
    epochs = [(graph, int(end)) for graph, end in EPOCH.findall(node.stderr)]
    assert epochs == [(graph_at(end - 1, start), end) for _, end in epochs]
    assert epochs[0][1] <= start < epochs[-1][1]


@pytest.mark.slow
def test_accepted_change_survives_the_controllers_death(fleet: Fleet) -> None:
    controller, nodes = started(fleet, rounds=300, nodes=3)
    with nodes[2].suspended():
        start = rotated(fleet)
        controller.kill()

    for node in nodes:
        node.exits(0)
        assert_switched(node, start)


# --- one cluster for the tests below ------------------------------------------------------------------


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("running")) as fleet:
        controller, nodes = started(fleet, rounds=1_000_000, nodes=4, paced=True)
        yield fleet
        fleet.stop([*nodes, controller])


@pytest.mark.group("running topology")
def test_rotation_starts_at_the_promised_round_everywhere(running: Fleet) -> None:
    start = rotated(running)

    def shown() -> dict[str, Any] | None:
        show = json.loads(running.command("topology", "show", "--json", "--cluster", running.cluster).stdout)
        return show if show["round"] >= start else None

    show = until(shown, f"the cluster is past round {start}")
    assert show["graph"] == graph_at(show["round"], start)
    assert show["edges"] == EDGES[show["graph"]]
    assert show["next"]["round"] == show["round"] + 5 - (show["round"] - start) % 5

    nodes = [process for process in running.processes if process.name.startswith("node-")]

    def all_past_it() -> bool:
        return all(int(EPOCH.findall(node.stderr)[-1][1]) > start for node in nodes)

    until(all_past_it, "every node has ended an epoch after the change")
    for node in nodes:
        assert_switched(node, start)


@pytest.mark.slow
@pytest.mark.group("running topology")
def test_ring_that_knows_networks_is_used_and_shown(running: Fleet) -> None:
    ring = "a@node-0+node-2:node-1"  # node-3 is in a network of its own
    running.command("topology", "set", ring, "--cluster", running.cluster)

    def shown() -> dict[str, Any] | None:
        show = json.loads(running.command("topology", "show", "--json", "--cluster", running.cluster).stdout)
        return show if show["graph"] == ring else None

    edges = until(shown, "the ring is in use")["edges"]
    assert edges == [["node-0", "node-2"], ["node-1", "node-3"], ["node-2", "node-1"], ["node-3", "node-0"]]


@pytest.fixture(scope="module")
def paused(running: Fleet) -> Fleet:
    """The cluster at rest, which leaves the processors to other tests."""
    running.command("pause", "--cluster", running.cluster)
    return running


RING = "node-0 node-1\nnode-1 node-2\nnode-2 node-3\n"


@pytest.mark.group("running topology")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RING, r"open is not strongly connected: no path node-1->node-0, node-2->node-0, .*"),
        (RING + "node-3 node-9\n", r".*node-9.*"),
        (RING + "node-3 node-0\nnode-0 -> node-1\n", r"open has 1 error: line 5: node-0->node-1 is in line 1 already"),
    ],
    ids=["not strongly connected", "unknown node", "duplicate edge"],
)
def test_invalid_edge_list_is_refused_in_one_line(paused: Fleet, text: str, reason: str) -> None:
    file = paused.folder / "open.txt"
    file.write_text(text)
    refused = paused.command("topology", "set", str(file), "--cluster", paused.cluster, code=2)
    assert re.fullmatch(f"edgenode: {reason}", refused.errors[-1])  # on a busy machine, it says first what it waits for
    assert refused.stdout == ""


@pytest.mark.slow
@pytest.mark.group("running topology")
def test_unknown_preset_is_refused_with_the_nearest(paused: Fleet) -> None:
    refused = paused.command("topology", "set", "exponentail", "--cluster", paused.cluster, code=2)
    assert re.fullmatch(r"edgenode: no graph named 'exponentail'; did you mean 'exponential'\? .*\n", refused.stderr)
