"""How a loop of one's own meets the changes of its run: eviction, a handoff, lost peers and another model."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, Process

pytestmark = pytest.mark.slow

# It prints what the loop sees. The learning rate falls with each step, so it shows the position of the schedule.
SCRIPT = """
import os, sys, time
import torch
from torch import nn
import edgenode

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, int(os.environ.get("OUT", "1"))))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.5, total_iters=1000)
mesh = edgenode.Mesh(model, "run.toml", optimizer, scheduler)
for batch in mesh.loop([torch.rand(3, 4) for _ in range(5)]):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    time.sleep(0.01)
    mesh.step(loss=loss)
    print("round", mesh.round, "lr", scheduler.get_last_lr()[0], flush=True)
    if mesh.round >= int(os.environ.get("CLOSE_AT", "1000000")):
        mesh.close()
print("done", mesh.done, "result", mesh.result is not None, flush=True)
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as made:
        (made.folder / "train.py").write_text(SCRIPT)
        yield made


def started(fleet: Fleet, name: str, **variables: str) -> Process:
    return fleet.script(name, "train.py", variables=variables)


def with_controller(fleet: Fleet, count: int, **variables: str) -> tuple[Process, str, list[Process]]:
    controller = fleet.controller()
    address = controller.logs(r"controller ready .*listen=(\S+)")[1]
    nodes = [started(fleet, f"node-{i}", EDGENODE_CONTROLLER=address, **variables) for i in range(count)]
    return controller, address, nodes


def rounds(process: Process) -> list[tuple[int, float]]:
    return [(int(t), float(lr)) for t, lr in re.findall(r"^round (\d+) lr (\S+)$", process.stdout, re.M)]


def test_a_suspended_loop_is_evicted_and_rejoins_in_its_step(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 4, "run.rounds": 900, "run.evict_after_s": 2})
    _, _, nodes = with_controller(fleet, 4)
    nodes[0].logs("run begins")
    nodes[3].logs("run begins")
    time.sleep(1)
    with nodes[3].suspended():
        nodes[0].logs(r"plan changes .*without=\['node-3'\]")
    nodes[3].logs("rejoining as a newcomer")
    nodes[3].logs("fetched the model")
    for node in nodes:
        node.exits(0)
        assert "done True result True" in node.stdout
    seen = rounds(nodes[3])
    steps = [t for t, _ in seen]
    assert steps == sorted(steps)
    gaps = [b - a for a, b in pairwise(steps) if b - a > 1]
    assert len(gaps) == 1  # it missed rounds, once
    others = dict(rounds(nodes[0]))
    assert seen[-1][1] == pytest.approx(others[seen[-1][0]], rel=0.02)  # its own would be 200 steps behind


def test_close_hands_over_and_the_others_go_on(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 300})
    _, address, nodes = with_controller(fleet, 2)
    nodes.append(started(fleet, "node-2", EDGENODE_CONTROLLER=address, CLOSE_AT="20"))
    nodes[2].exits(0)
    assert "training has ended on this node before the run" in nodes[2].stderr
    assert "this node has left, and the run goes on without it" in nodes[2].stderr
    assert "done True result True" in nodes[2].stdout
    for node in nodes[:2]:
        node.exits(0)
        assert rounds(node)[-1][0] >= 299
    assert "without=['node-2']" not in nodes[0].stderr


def test_the_controller_refuses_another_model_with_its_parameters(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    controller = fleet.controller()
    address = controller.logs(r"controller ready .*listen=(\S+)")[1]
    started(fleet, "node-0", EDGENODE_CONTROLLER=address).logs("waiting for nodes")
    other = started(fleet, "node-1", EDGENODE_CONTROLLER=address, OUT="2").exits(1)
    last = other.stderr.strip().splitlines()[-1]
    assert 'node-1 trains something else than node-0: shared parameter 2.bias is "2", not "1"' in last


def test_a_newcomer_shares_the_body_and_has_a_head_of_its_own(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 900, "task.shared": ["0"], "run.evict_after_s": 2})
    _, address, nodes = with_controller(fleet, 2)
    nodes[0].logs("run begins")
    nodes.append(started(fleet, "node-2", EDGENODE_CONTROLLER=address, OUT="3"))
    nodes[2].logs("data loaded .*local_parameters=27 .*shared_parameters=40")
    nodes[2].logs("fetched the model")
    for node in nodes:
        node.exits(0)
    assert rounds(nodes[2])[0][0] > 0
    models = [load_file(fleet.state(f"node-{i}") / "model.safetensors") for i in range(3)]
    assert [model["2.bias"].shape for model in models] == [(1,), (1,), (3,)]


def test_a_lost_peer_is_one_error_that_names_it(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 3000, "run.barrier_timeout_s": 3})
    ports = free_ports(2)
    nodes = []
    for i, port in enumerate(ports):
        peer = {"EDGENODE_PEERS": f"127.0.0.1:{ports[1 - i]}"}
        nodes.append(started(fleet, f"node-{i}", **{"EDGENODE_LISTEN": f"127.0.0.1:{port}", **peer}))
    nodes[0].logs("run begins")
    time.sleep(1)
    nodes[1].kill()
    nodes[0].exits(1)
    assert re.fullmatch(
        r"edgenode.errors.BarrierTimeout: round \d+ timed out waiting for node-1",
        nodes[0].stderr.strip().splitlines()[-1],
    )
    assert nodes[0].stderr.count("Traceback") == 1
