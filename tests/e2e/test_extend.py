"""A run trains longer: by `edgenode extend` while it trains, and by run.toml after it has stopped or ended."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, Process
from tests.e2e.test_resume import tensors

pytestmark = [pytest.mark.slow, pytest.mark.group("extend")]

# All runs share a cluster name, because it is in the metadata of the models. Other test processes have other names.
RUN: dict[str, object] = {
    "run.cluster": f"e2e-extend-{os.getpid()}",
    "run.nodes": 2,
    "run.rounds": 60,
    "task.norm": "group",
    "topology.graphs": ["a"],
    "algorithm.name": "sp",
}
SCSP = {**RUN, "algorithm.name": "scsp", "algorithm.gossip_graph": "auto"}  # an allreduce of three rounds
MESH = """
import os
import edgenode, torch
from torch.nn import functional

torch.manual_seed(0)
model = torch.nn.Linear(8, 2)
torch.manual_seed(int(os.environ["EDGENODE_NAME"][-1]))
data = [(torch.randn(4, 8), torch.randint(2, (4,))) for _ in range(10)]
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
mesh = edgenode.Mesh(model, "run.toml", optimizer)
for inputs, classes in mesh.loop(data):
    loss = functional.cross_entropy(model(inputs), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mesh.step(loss=loss)
print(mesh.result["nodes"][0]["rounds"])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The models of a run of SP that had 120 rounds from the beginning."""
    with Fleet(tmp_path_factory.mktemp("whole")) as fleet:
        fleet.configure({**RUN, "run.rounds": 120})
        ended(fleet.controller(), *fleet.nodes(2))
        return models(fleet)


def models(fleet: Fleet) -> dict[str, dict[str, bytes]]:
    return {f"node-{i}": tensors(fleet.state(f"node-{i}") / "model.safetensors") for i in range(2)}


def ended(*processes: Process) -> None:
    for process in processes:
        process.exits(0)


def results(fleet: Fleet) -> list[tuple[int, Any]]:
    """The rounds of each node, and those of run.toml as it was trained."""
    found = [json.loads((fleet.state(f"node-{i}") / "result.json").read_text()) for i in range(2)]
    return [(result["nodes"][0]["rounds"], result["config"]["run"]["rounds"]) for result in found]


def recorded(fleet: Fleet, what: str) -> str:
    """What `edgenode runs` prints of the only run."""
    which = ("last",) if what == "show" else ()
    return fleet.command("runs", what, *which, "--state-dir", str(fleet.state("controller"))).stdout


def test_run_is_extended_while_it_trains(fleet: Fleet, whole: dict[str, dict[str, bytes]]) -> None:
    fleet.configure(RUN)
    controller, (first, second) = fleet.controller(), fleet.nodes(2)
    first.logs("run begins")
    with second.suspended():
        reply = fleet.command("extend", "--add", "60", "--cluster", str(RUN["run.cluster"])).stdout
        again = fleet.command("extend", "--rounds", "120", "--cluster", str(RUN["run.cluster"]), code=2)
    assert re.match(r"the run is extended to 120 rounds; every node knows it before round \d+|Queued", reply)
    assert "the run trains for 120 rounds already, and 120 are not more" in again.stderr
    ended(controller, first, second)
    assert results(fleet) == [(120, 120)] * 2
    assert models(fleet) == whole
    assert re.search(r"the run has more rounds than run.toml .*in_run_toml=60.* rounds=120", controller.stderr)
    assert re.search(r"extended\s+to 120 rounds of training", recorded(fleet, "show"))


@pytest.mark.parametrize("with_controller", [True, False], ids=["with a controller", "with fixed peers"])
@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "finished"])
def test_run_is_extended_by_the_file(
    fleet: Fleet, whole: dict[str, dict[str, bytes]], with_controller: bool, stops: bool
) -> None:
    """One of SP has no last phase, so its bits are those of a run that had all rounds from the beginning."""
    ports = free_ports(2)

    def started() -> list[Process]:
        return [*fleet.nodes(2), fleet.controller()] if with_controller else fleet.static(ports)

    fleet.configure(RUN)
    first = started()
    if stops and with_controller:
        first[0].logs("run begins")
        with first[1].suspended():
            fleet.command("stop", "--detach", "--cluster", str(RUN["run.cluster"]))
    elif stops:
        first[0].logs("epoch done")
        for process in first:
            process.kill()
    if not stops or with_controller:
        ended(*first)
    fleet.configure({**RUN, "run.rounds": 120})
    ended(*started())
    assert results(fleet) == [(120, 120)] * 2
    assert models(fleet) == whole


def test_finished_run_of_scsp_trains_on_to_another_last_phase(fleet: Fleet) -> None:
    """The controller's file decides: that of the nodes is as it was."""
    fleet.configure(SCSP)
    ended(fleet.controller(), *fleet.nodes(2))
    first = models(fleet)
    assert results(fleet) == [(63, 60)] * 2
    assert first["node-0"] == first["node-1"]

    too_few = fleet.controller("--set", "run.rounds=62")
    for node in fleet.nodes(2):
        assert "run.rounds = 62, but the run has done 63 rounds" in node.exits(1).stderr
    too_few.kill()

    nodes, controller = fleet.nodes(2), fleet.controller("--set", "run.rounds=120")
    nodes[0].logs(r"run begins .*round=63")
    ended(controller, *nodes)
    assert results(fleet) == [(123, 120)] * 2
    assert models(fleet)["node-0"] == models(fleet)["node-1"] != first["node-0"]
    assert re.search(r"^ *1 .* 123 ", recorded(fleet, "list"), re.MULTILINE)


def test_peers_with_different_lengths_name_the_key(fleet: Fleet) -> None:
    ports = free_ports(2)
    fleet.configure(RUN)
    longer = ("--set", "run.rounds=120")
    nodes = [fleet.static_node(ports, 0), fleet.static_node(ports, 1, *longer)]
    for node in nodes:
        assert re.search(r"run\.rounds is (60, not 120|120, not 60)", node.exits(1).stderr)


def test_finished_loop_of_ones_own_trains_on(fleet: Fleet) -> None:
    (fleet.folder / "train.py").write_text(MESH)
    loop = {**RUN, "run.cluster": fleet.cluster}
    for rounds in (20, 50):
        fleet.configure({**loop, "run.rounds": rounds})
        controller = fleet.controller()
        nodes = [fleet.script(f"node-{i}", "train.py") for i in range(2)]
        ended(controller, *nodes)
        assert [node.stdout.split()[-1] for node in nodes] == [str(rounds)] * 2


def test_loop_of_ones_own_is_extended_while_it_trains(fleet: Fleet, tmp_path: Path) -> None:
    """It goes on to the new end, and its model is that of a loop that had all rounds from the beginning."""
    cluster, begins = str(RUN["run.cluster"]), "for inputs, classes in mesh.loop(data):\n"
    slowly = "    time.sleep(0 if os.path.exists('extended') else 0.1)\n"

    def train(fleet: Fleet, rounds: int) -> tuple[Process, list[Process]]:
        (fleet.folder / "train.py").write_text(f"import time{MESH.replace(begins, begins + slowly)}")
        fleet.configure({**RUN, "run.rounds": rounds})
        return fleet.controller(), [fleet.script(f"node-{i}", "train.py") for i in range(2)]

    controller, nodes = train(fleet, 200)
    nodes[0].logs("run begins")
    reply = fleet.command("extend", "--rounds", "220", "--cluster", cluster).stdout
    assert re.match(r"the run is extended to 220 rounds; every node knows it before round \d+|Queued", reply)
    (fleet.folder / "extended").touch()
    ended(controller, *nodes)
    assert [node.stdout.split()[-1] for node in nodes] == ["220", "220"]
    with Fleet(tmp_path) as other:
        (other.folder / "extended").touch()
        controller, nodes = train(other, 220)
        ended(controller, *nodes)
        assert models(fleet) == models(other)
