"""`edgenode run` and `edgenode controller` as people start them: late, with the wrong file, and killed."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from edgenode.storage.checkpoints import CheckpointStore
from tests.e2e.fleet import Fleet, Process, free_ports


@pytest.mark.timeout(60)
def test_four_nodes_that_know_each_others_addresses_need_no_controller(fleet: Fleet) -> None:
    fleet.configure()
    ports = free_ports(4)
    nodes = [fleet.static_node(ports, i) for i in range(3)]
    nodes[0].says(rf"waiting for a peer .*peer=127\.0\.0\.1:{ports[3]}")
    nodes.append(fleet.static_node(ports, 3))

    for node in nodes:
        node.ended(0)
    plans = {node.says(r"run begins .*plan=(\w+)")[1] for node in nodes}
    assert len(plans) == 1
    for node in nodes:
        result = json.loads((fleet.state(node.name) / "result.json").read_text())
        assert result["mean_test_accuracy"] > 0.9
        assert [n["rounds"] for n in result["nodes"]] == [102]


@pytest.mark.timeout(30)
def test_a_node_of_another_run_is_refused_by_the_controller_with_both_digests(fleet: Fleet) -> None:
    ours = fleet.configure().digest()
    theirs = fleet.configure({"run.seed": 1}, file="other.toml").digest()
    fleet.controller().says("controller ready")
    mismatch = fleet.node("node-0", file="other.toml").ended(1)
    assert ours in mismatch.errors[-1]
    assert theirs in mismatch.errors[-1]


@pytest.mark.timeout(30)
def test_a_node_of_another_run_stops_at_its_first_peer_with_both_digests(fleet: Fleet) -> None:
    ours = fleet.configure({"run.nodes": 2}).digest()
    theirs = fleet.configure({"run.nodes": 2, "run.seed": 1}, file="other.toml").digest()
    ports = free_ports(2)
    fleet.static_node(ports, 0).says("listening")
    mismatch = fleet.static_node(ports, 1, file="other.toml").ended(1)
    assert ours in mismatch.errors[-1]
    assert theirs in mismatch.errors[-1]


@pytest.mark.timeout(30)
def test_two_fixed_peers_of_one_name_both_stop_and_say_so(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    ports = free_ports(2)
    both = [
        fleet.node("twin", "--peers", f"127.0.0.1:{there}", listen=f"127.0.0.1:{here}")
        for here, there in (ports, ports[::-1])
    ]
    for twin in both:
        (line,) = twin.ended(2).errors
        conflict = r"the peer at \S+ has this node's name 'twin': give one of the two another --name"
        assert re.fullmatch(f"edgenode: {conflict}", line)


@pytest.mark.timeout(60)
def test_a_copy_of_a_member_is_refused_with_both_addresses_also_after_a_controller_restart(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20_000, "run.checkpoint_every": 10_000})
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    where = ("--controller", listen)
    controller = fleet.controller(listen=listen)
    nodes = fleet.nodes(2, *where)
    nodes[0].says("epoch done")
    address = nodes[0].says(r"listening .*address=(\S+)")[1]
    shutil.copytree(fleet.state("node-0"), fleet.state("copy"))

    def copied() -> Process:
        return fleet.node("node-0", *where, "--state-dir", str(fleet.state("copy")))

    def assert_refused(copy: Process) -> None:
        (line,) = copy.ended(1).errors
        refusal = rf"node id 'node-0' is taken by {address}; give the one at 127\.0\.0\.1:\d+ another --name"
        assert re.fullmatch(f"edgenode: refused by the controller at {listen}: {refusal}", line)

    assert_refused(copied())
    controller.kill()
    late = copied()
    late.says("listening")
    controller = fleet.controller(listen=listen)
    assert_refused(late)
    fleet.command("stop", *where)
    for process in (*nodes, controller):
        process.ended(0)


@pytest.mark.timeout(40)
def test_sigterm_ends_nodes_and_controller_without_a_traceback(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20_000})
    controller = fleet.controller()
    nodes = fleet.nodes(2)
    for node in nodes:
        node.says("epoch done")
    controller.popen.terminate()
    controller.ended(130, timeout_s=15)  # with it there, a node would hand over before it goes
    for node in nodes:
        node.popen.terminate()

    for node in nodes:
        node.ended(130, timeout_s=15)
        assert node.errors == [f"edgenode: results so far are in {fleet.state(node.name)}", "edgenode: interrupted"]
    assert controller.errors == ["edgenode: interrupted"]


@pytest.mark.timeout(60)
def test_without_a_controller_a_killed_node_ends_the_others_by_name_and_their_checkpoints_stay(
    fleet: Fleet,
) -> None:
    # In a complete graph everybody waits for everybody, so nobody can name another but the dead one.
    config = fleet.configure({"run.rounds": 20_000, "run.barrier_timeout_s": 3, "topology.graphs": ["complete"]})
    nodes = fleet.static(free_ports(4))
    for node in nodes:
        node.says(r"epoch done .*epoch=2 ")
    nodes[2].kill()
    survivors = [node for node in nodes if node is not nodes[2]]

    for node in survivors:
        node.ended(1, timeout_s=20)
        assert re.fullmatch(r"edgenode: round \d+ timed out waiting for .*\bnode-2\b.*", node.errors[-1])
        assert len(node.errors) == 1
    for node in survivors:
        store = CheckpointStore(fleet.state(node.name), config.digest())
        newest = max(store.rounds())
        assert newest >= 20
        assert store.load(newest).state.x.size > 0
