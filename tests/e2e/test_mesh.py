"""The example of a loop of one's own, in real processes: as accurate as one process, killed, stopped and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from psutil import Process as SystemProcess
from safetensors.numpy import load_file

from edgenode.security.local import prepare
from tests.e2e.fleet import Fleet, Process, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_gru"
NODES = [f"node-{i}" for i in range(4)]
PARTS = ("--", "--part", "{index}/{nodes}")

# One worker makes the fixtures once. On a busy machine they take five minutes.
pytestmark = [pytest.mark.slow, pytest.mark.group("digits_gru"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("mesh")) as made:
        for file in EXAMPLE.iterdir():
            if file.is_file():
                shutil.copy(file, made.folder)
        yield made


def launched(fleet: Fleet, out: str, *arguments: str) -> Process:
    return fleet.start("launch", "launch", "--out", out, *arguments, "train.py", *PARTS)


@pytest.fixture(scope="module")
def plain(fleet: Fleet) -> float:
    """The accuracy of one process with all the data."""
    (percent,) = re.findall(r"test accuracy ([\d.]+)%", fleet.start("plain", program=["plain.py"]).exits(0).stdout)
    return float(percent)


@pytest.fixture(scope="module")
def whole(fleet: Fleet) -> Process:
    """A launch that nothing disturbs."""
    return launched(fleet, "whole").exits(0)


def accuracies(folder: Path) -> list[float]:
    results = [json.loads((folder / name / "result.json").read_text()) for name in NODES]
    return [100 * result["mean_test_accuracy"] for result in results]


def test_four_nodes_are_as_accurate_as_one_process(fleet: Fleet, plain: float, whole: Process) -> None:
    assert min(accuracies(fleet.folder / "whole")) > plain - 1
    printed = re.findall(r"node-\d \| test accuracy ([\d.]+)%", whole.stdout)
    assert sorted(map(float, printed)) == sorted(round(a, 2) for a in accuracies(fleet.folder / "whole"))


def test_a_stopped_launch_resumes_to_the_bit(fleet: Fleet, whole: Process) -> None:
    stopped = launched(fleet, "stopped")
    until(lambda: "node-2 | " in stopped.stdout and "epoch=20 " in stopped.stdout, "epoch 20")
    fleet.start("stop", "stop", variables={"EDGENODE_CREDENTIALS": ""}).exits(0)  # it finds the launch of its folder
    stopped.exits(0)
    assert "run stopped: start the controller and all nodes again to resume" in stopped.stdout
    launched(fleet, "stopped").exits(0)
    for name in NODES:
        ours, theirs = (load_file(fleet.folder / out / name / "model.safetensors") for out in ("stopped", "whole"))
        assert ours.keys() == theirs.keys()
        assert all((ours[key] == theirs[key]).all() for key in ours), name


def test_a_killed_node_returns_and_the_run_ends_well(fleet: Fleet, plain: float) -> None:
    run = launched(fleet, "killed", "--max-restarts", "1", "--set", "run.evict_after_s=2")
    until(lambda: "epoch=20 " in run.stdout, "epoch 20")
    victims = [p for p in SystemProcess(run.popen.pid).children() if p.environ().get("EDGENODE_NAME") == "node-2"]
    os.kill(victims[0].pid, signal.SIGKILL)
    run.exits(0)
    assert "node-2 was killed by SIGKILL, and starts again" in run.stderr
    assert re.search(r"node-2 \| .*fetched the model", run.stdout)
    assert min(accuracies(fleet.folder / "killed")) > plain - 1


def test_a_launch_of_diloco_resumes_with_all_when_a_node_returns(fleet: Fleet) -> None:
    """Its members are fixed. All go back to a checkpoint, and end with one model, that of an undisturbed launch."""
    settings = {
        "run.rounds": 120, "run.checkpoint_every": 10, "run.evict_after_s": 300, "algorithm.name": "diloco",
        "algorithm.compressor": "identity", "algorithm.values": "fitted2", "topology.graphs": "doubling",
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    launched(fleet, "diloco", *options).exits(0)
    run = launched(fleet, "returned", "--max-restarts", "1", *options)
    until((fleet.folder / "returned" / "node-2" / "checkpoints" / "round-000000040").exists, "round 40")
    victims = [p for p in SystemProcess(run.popen.pid).children() if p.environ().get("EDGENODE_NAME") == "node-2"]
    os.kill(victims[0].pid, signal.SIGKILL)
    run.exits(0)
    assert run.stdout.count("resuming from a checkpoint") == 3
    expected, *_ = models = [
        load_file(fleet.folder / out / name / "model.safetensors") for out in ("diloco", "returned") for name in NODES
    ]
    for model in models:
        assert all((model[key] == expected[key]).all() for key in expected)


def test_workers_of_a_data_loader_start_beside_the_node(fleet: Fleet) -> None:
    """Each of eight passes forks a process, while the threads of the node work."""
    script = (fleet.folder / "train.py").read_text()
    one_process = "sampler=RandomSampler(data, num_samples=STEPS * BATCH))"
    assert one_process in script
    (fleet.folder / "workers.py").write_text(script.replace(one_process, "shuffle=True, num_workers=1)"))
    run = fleet.start("workers", "launch", "--out", "workers", "--set", "run.rounds=96", "workers.py", *PARTS).exits(0)
    assert run.stdout.count("epoch=7 ") == 4


def test_nodes_started_by_hand_survive_their_controller(fleet: Fleet, plain: float) -> None:
    """Without launch: fixed names, a controller that is killed and comes back, and a node that SIGTERM sends away."""
    settings = {"EDGENODE_RUN_ROUNDS": "300", "EDGENODE_RUN_CLUSTER": fleet.cluster}
    prepare(fleet.folder / "hand", fleet.cluster, NODES)
    controller = fleet.start("controller", "controller", "--config", "run.toml", "--listen", "127.0.0.1:0",
                             "--state-dir", "hand/controller", variables=settings)  # fmt: skip
    address = controller.logs(r"controller ready .*listen=(\S+)")[1]
    nodes = []
    for i, name in enumerate(NODES):
        variables = {
            **settings, "EDGENODE_NAME": name, "EDGENODE_CONTROLLER": address, "EDGENODE_LISTEN": "127.0.0.1:0",
            "EDGENODE_STATE_DIR": f"hand/{name}",
        }  # fmt: skip
        nodes.append(fleet.start(name, "--part", f"{i}/4", program=["train.py"], variables=variables))
    nodes[0].logs("epoch=2 ")
    nodes[3].popen.send_signal(signal.SIGTERM)
    nodes[3].exits(0)
    assert "leaving after a handoff" in nodes[3].stderr
    assert "test accuracy" in nodes[3].stdout  # the script goes on after its loop
    controller.kill()
    for node in nodes[:3]:
        node.exits(0)
        assert re.search(r"test accuracy \d+", node.stdout)
