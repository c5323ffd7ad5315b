"""`edgenode run` and `edgenode controller` in everyday use: late, with the wrong file, and killed."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from edgenode.addresses import free_ports
from edgenode.storage.checkpoints import CheckpointStore
from tests.e2e.fleet import Fleet, Process


@pytest.mark.slow
def test_nodes_with_fixed_peers_need_no_controller(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "algorithm.gossip_graph": "complete"})
    ports = free_ports(3)
    nodes = [fleet.static_node(ports, i) for i in range(2)]
    nodes[0].logs(rf"waiting for a peer .*peer=127\.0\.0\.1:{ports[2]}")
    nodes.append(fleet.static_node(ports, 2))

    for node in nodes:
        node.exits(0)
    plans = {node.logs(r"run begins .*plan=(\w+)")[1] for node in nodes}
    assert len(plans) == 1
    for node in nodes:
        result = json.loads((fleet.state(node.name) / "result.json").read_text())
        assert result["mean_test_accuracy"] > 0.9
        assert [n["rounds"] for n in result["nodes"]] == [101]


KEYS = "run.seed is 0, not 1; task.learning_rate is 0.02, not 0.05"


@pytest.mark.slow
def test_controller_refuses_another_run_and_names_the_keys(fleet: Fleet) -> None:
    fleet.configure()
    fleet.configure({"run.seed": 1, "task.learning_rate": 0.05, "run.threads": 2}, file="other.toml")
    fleet.controller().logs("controller ready")
    (line,) = fleet.node("node-0", file="other.toml").exits(1).errors
    differs = rf"run\.toml of controller differs from that of node-0 at \S+: {KEYS}"
    assert re.fullmatch(rf"edgenode: refused by \S+: {differs}", line)


@pytest.mark.slow
def test_peers_of_different_runs_both_end_and_name_the_keys(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    fleet.configure({"run.nodes": 2, "run.seed": 1, "task.learning_rate": 0.05}, file="other.toml")
    ports = free_ports(2)
    first = fleet.static_node(ports, 0)
    first.logs("listening")
    for node, other, keys in (
        (
            fleet.static_node(ports, 1, file="other.toml"),
            "node-0",
            "run.seed is 1, not 0; task.learning_rate is 0.05, not 0.02",
        ),
        (first, "node-1", KEYS),
    ):
        (line,) = node.exits(1).errors
        assert re.fullmatch(rf"edgenode: run\.toml of {node.name} differs from that of {other} at \S+: {keys}", line)


@pytest.mark.slow
def test_fixed_peers_of_the_same_name_both_stop(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    ports = free_ports(2)
    both = [
        fleet.node("twin", "--peers", f"127.0.0.1:{there}", "--state-dir", str(here), listen=f"127.0.0.1:{here}")
        for here, there in (ports, ports[::-1])
    ]
    for twin in both:
        (line,) = twin.exits(2).errors
        conflict = r"the peer at \S+ has this node's name 'twin': give one of the two another --name"
        assert re.fullmatch(f"edgenode: {conflict}", line)


@pytest.mark.slow
def test_copy_of_a_member_is_refused_with_both_addresses(fleet: Fleet) -> None:
    """Also after the controller has restarted."""
    fleet.configure({"run.nodes": 2, "run.rounds": 20_000, "run.checkpoint_every": 10_000})
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    where = ("--controller", listen)
    controller = fleet.controller(listen=listen)
    nodes = fleet.nodes(2, *where)
    nodes[0].logs("epoch done")
    address = nodes[0].logs(r"listening .*address=(\S+)")[1]
    shutil.copytree(fleet.state("node-0"), fleet.state("copy"))

    def copied() -> Process:
        return fleet.node("node-0", *where, "--state-dir", str(fleet.state("copy")))

    def assert_refused(copy: Process) -> None:
        (line,) = copy.exits(1).errors
        refusal = rf"node id 'node-0' is taken by {address}; give the process at 127\.0\.0\.1:\d+ another --name"
        assert re.fullmatch(f"edgenode: refused by the controller at {listen}: {refusal}", line)

    assert_refused(copied())
    controller.kill()
    late = copied()
    late.logs("listening")
    controller = fleet.controller(listen=listen)
    assert_refused(late)
    fleet.stop([*nodes, controller], *where)


def test_sigterm_ends_every_process_without_a_traceback(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20_000})
    controller = fleet.controller()
    nodes = fleet.nodes(2)
    for node in nodes:
        node.logs("epoch done")
    controller.popen.terminate()
    controller.exits(130)  # with a controller, a node would hand over before it ends
    for node in nodes:
        node.popen.terminate()

    for node in nodes:
        node.exits(130)
        assert node.errors == [f"edgenode: results so far are in {fleet.state(node.name)}", "edgenode: interrupted"]
    assert controller.errors == ["edgenode: interrupted"]


@pytest.mark.slow
def test_fixed_peers_of_a_killed_node_end_and_name_it(fleet: Fleet) -> None:
    """And keep their checkpoints. In a complete graph every node waits for every other, so all name the killed one."""
    config = fleet.configure(
        {"run.nodes": 3, "run.rounds": 20_000, "run.barrier_timeout_s": 3, "topology.graphs": ["complete"]}
    )
    nodes = fleet.static(free_ports(3))
    for node in nodes:
        node.logs(r"epoch done .*epoch=2 ")
    nodes[2].kill()

    for node in nodes[:2]:
        node.exits(1)
        assert re.fullmatch(r"edgenode: round \d+ timed out waiting for .*\bnode-2\b.*", node.errors[-1])
        assert len(node.errors) == 1
        store = CheckpointStore(fleet.state(node.name), config.digest())
        newest = max(store.rounds())
        assert newest >= 20
        assert store.load(newest).state.x.size > 0
