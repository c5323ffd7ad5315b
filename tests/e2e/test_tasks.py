"""A task of one's own on real daemons: own data, Adam and dropout, with results bit-identical to a simulation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet

BIRDS = """
import zlib

import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgenode

SIZES = {"node-0": 400, "node-1": 100, "node-2": 40, "node-3": 60}


class Birds(edgenode.Task):
    def __init__(self, width: int) -> None:
        self.width = width

    def model(self):
        return nn.Sequential(nn.Linear(6, self.width), nn.BatchNorm1d(self.width), nn.ReLU(), nn.Dropout(0.3),
                             nn.Linear(self.width, 3))

    def train_data(self, node):
        return songs(SIZES[node.name], node.name)

    def test_data(self, node):
        return songs(100, "test")

    def scheduler(self, optimizer, run):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.rounds)


def songs(count, name):
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    x = torch.randn(count, 6, generator=random)
    return TensorDataset(x, x[:, :3].argmax(dim=1))
"""
RUN: dict[str, object] = {
    "run.rounds": 60,
    "run.checkpoint_every": 10,
    "task.entry": "birds:Birds",
    "task.options": {"width": 12},
    "task.skew": 0.0,
    "task.objective": "samples",
    "task.optimizer": "adam",
    "task.learning_rate": 0.01,
    "task.local_steps": 2,
    "task.clip_norm": 1.0,
    "algorithm.share": 0.2,
}


def models(folder: Path) -> dict[str, dict[str, bytes]]:
    files = {f"node-{i}": folder / f"node-{i}" / "model.safetensors" for i in range(4)}
    return {name: {t: value.tobytes() for t, value in load_file(file).items()} for name, file in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize("shared", [[], ["0", "1"]])
def test_own_task_resumes_as_the_simulation_runs(fleet: Fleet, shared: list[str]) -> None:
    """Daemons that lose their power in the middle end with the models of an uninterrupted simulation, to the bit."""
    fleet.configure({**RUN, "task.shared": shared})
    (fleet.folder / "birds.py").write_text(BIRDS)
    ports = free_ports(4)
    first = fleet.static(ports)
    for node, samples in zip(first, (400, 100, 40, 60), strict=True):
        node.logs(f"data loaded .*samples={samples}\\b")
    first[0].logs(r"epoch done .*epoch=6 ")
    for process in first:
        process.popen.kill()
    for process in first:
        process.popen.wait()
    again = fleet.static(ports)
    for node in again:
        node.exits(0)
        assert int(node.logs(r"run begins .*round=(\d+)")[1]) >= 10

    fleet.command("simulate", "--config", "run.toml", "--out", "simulated")
    assert models(fleet.folder / "simulated") == models(fleet.folder)
    checkpoint = max((fleet.state("node-0") / "checkpoints").glob("round-*"))
    # The mean node has 150 samples, and a round uses two batches of 32 of them: an epoch has three rounds.
    assert json.loads(json.loads((checkpoint / "meta.json").read_text())["records"][-1])["epoch"] == [150, 3]
    names = load_file(checkpoint / "state.safetensors").keys()
    assert {"local.optimizer.state.0.exp_avg", "local.schedule.state.json"} <= names


@pytest.mark.slow
def test_fast_nodes_train_while_they_wait_for_a_slow_one(fleet: Fleet) -> None:
    slow = """
    def loss(self, model, batch):
        time.sleep(0.2 if self.node == "node-0" else 0.05)
        return super().loss(model, batch)
"""
    text = BIRDS.replace("import zlib", "import time\nimport zlib").replace(
        "    def test_data", f"{slow}\n    def test_data"
    )
    text = text.replace("        return songs(SIZES", "        self.node = node.name\n        return songs(SIZES")
    fleet.configure({**RUN, "task.local_steps": "auto", "algorithm.name": "sp", "run.rounds": 40})
    (fleet.folder / "birds.py").write_text(text)
    for node in fleet.static(free_ports(4)):
        node.exits(0)
    steps = {}
    for name in (f"node-{i}" for i in range(4)):
        checkpoint = max((fleet.state(name) / "checkpoints").glob("round-*"))
        steps[name] = load_file(checkpoint / "state.safetensors")["local.steps"].tolist()
    taken = [steps[f"node-{i}"][0] for i in range(4)]
    assert 40 <= taken[0] < 60, steps
    assert min(taken[1:]) >= 80, steps  # 12 rounds of one step, and 28 of three or four


@pytest.mark.slow
def test_node_with_other_code_is_refused_by_name(fleet: Fleet) -> None:
    fleet.configure(RUN)
    (fleet.folder / "birds.py").write_text(BIRDS)
    ports = free_ports(4)
    nodes = [fleet.static_node(ports, i) for i in range(3)]
    for node in nodes:
        node.logs("listening")
    (fleet.folder / "birds.py").write_text(BIRDS.replace("Dropout(0.3)", "Dropout(0.4)"))
    other = fleet.static_node(ports, 3)
    other.exits(1)
    assert re.search(r'source of the task is "[0-9a-f]{16}", not "[0-9a-f]{16}"', other.stderr)
