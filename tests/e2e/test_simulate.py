"""`edgenode simulate` against the real daemons, and interrupted by Ctrl-C."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, until
from tests.torch_versions import has_muon

# BatchNorm statistics and momentum, a rotation, and the last gossip
SCSP = {"run.rounds": 12, "task.model": "resnet20", "task.batch_size": 16, "topology.every": "5r"}
# name-dependent random numbers, unequal u, shards of unequal size
RANDOM = {
    "run.rounds": 20,
    "task.alpha": 0.5,
    "task.skew": 0.0,
    "algorithm.name": "sp",
    "algorithm.compressor": "random",
    "topology.graphs": ["chord"],
}

# one block after another, unequal weights of each, the last gossip; few bits in both, and logits that differ by node
ROLLING = {
    "run.rounds": 14,
    "algorithm.compressor": "rolling",
    "algorithm.share": 0.15,
    "algorithm.values": "fitted4",
    "algorithm.gossip_values": "int8",
    "task.loss": "balanced",
    "topology.graphs": ["chord"],
}
# an allreduce: parts of the model with unequal weights, and averages that are passed on as they are; moments of AdamW
RECOMMENDED = {
    "run.rounds": 14,
    "run.recipe": "recommended",
    "task.optimizer": "adamw",
    "task.learning_rate": 0.003,
    "task.schedule": "cosine",
    "algorithm.share": 0.15,
    "algorithm.gossip_graph": "auto",
    "topology.graphs": ["chord"],
}
# updates in bfloat16, and two optimisers for one model
MUON = {**RECOMMENDED, "task.optimizer": "muon", "task.schedule": "trapezoid", "task.loss": "balanced"}
# keeps an estimate of every neighbour
CHOCO = {"run.rounds": 14, "algorithm.name": "choco-sgd", "algorithm.share": 0.1, "topology.graphs": ["two-way"]}
# keeps what it left out, and the momentum that all nodes share; several local steps
DILOCO = {"run.rounds": 7, "algorithm.name": "diloco", "task.local_steps": 2, "topology.graphs": ["complete"]}
# the most accurate for few bytes; an exchange takes two rounds, and values are in a Huffman code
MULOCO = {
    **DILOCO,
    "run.rounds": 8,
    "run.checkpoint_every": 3,
    "topology.graphs": ["halving"],
    "algorithm.values": "coded3",
    "algorithm.averaging_rate": 1,
    "task.optimizer": "muon",
    "task.learning_rate": 0.006,
    "task.schedule": "trapezoid",
    "task.loss": "balanced",
}
# groups of 3 and 2 nodes, one of which sends twice, and another one waits in each first round
GROUPS = {**DILOCO, "run.nodes": 5, "run.rounds": 6, "run.checkpoint_every": 4, "topology.graphs": ["doubling"]}
# unequal weights in flight, drained at a checkpoint and before the last gossip
OVERLAP = {
    "run.rounds": 14,
    "run.overlap": 2,
    "run.checkpoint_every": 5,
    "run.evaluate_every": 4,
    "algorithm.share": 0.1,
    "topology.graphs": ["chord"],
}


def models(folder: Path, nodes: int = 4) -> dict[str, dict[str, bytes]]:
    """Node -> tensor -> its bytes, BatchNorm buffers too."""
    files = {f"node-{i}": folder / f"node-{i}" / "model.safetensors" for i in range(nodes)}
    return {name: {t: value.tobytes() for t, value in load_file(file).items()} for name, file in files.items()}


def result(file: Path) -> dict[str, Any]:
    """Return a result.json without the values that depend on the machine."""
    content: dict[str, Any] = json.loads(file.read_text())
    del content["wall_s"]
    for node in content["nodes"]:
        for key in ("wire_bytes", "peak_memory_bytes", "joules_per_round", "power_sensor"):
            del node[key]
    return content


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(SCSP, id="scsp", marks=pytest.mark.slow),
        pytest.param(RANDOM, id="random", marks=pytest.mark.slow),
        pytest.param(ROLLING, id="rolling", marks=pytest.mark.slow),
        pytest.param(RECOMMENDED, id="recommended"),
        pytest.param(MUON, id="muon", marks=[pytest.mark.slow, has_muon]),
        pytest.param(OVERLAP, id="overlap", marks=pytest.mark.slow),
        pytest.param(CHOCO, id="choco", marks=pytest.mark.slow),
        pytest.param(DILOCO, id="diloco", marks=pytest.mark.slow),
        pytest.param(GROUPS, id="groups", marks=pytest.mark.slow),
        pytest.param(MULOCO, id="muloco", marks=[pytest.mark.slow, has_muon]),
    ],
)
def test_simulation_is_bit_identical_to_daemons(fleet: Fleet, changes: dict[str, object]) -> None:
    fleet.configure(changes)
    nodes = int(str(changes.get("run.nodes", 4)))
    for node in fleet.static(free_ports(nodes)):
        node.exits(0)
    fleet.command("simulate", "--config", "run.toml", "--out", "simulated")

    assert models(fleet.folder / "simulated", nodes) == models(fleet.folder, nodes)
    if changes is SCSP:
        assert any("running_mean" in tensor for tensor in models(fleet.folder)["node-0"])
    simulated = result(fleet.folder / "simulated" / "result.json")["nodes"]
    assert simulated == [result(fleet.state(f"node-{i}") / "result.json")["nodes"][0] for i in range(nodes)]


@pytest.mark.slow
def test_simulation_resumes_bit_identical_after_ctrl_c(fleet: Fleet) -> None:
    fleet.configure({"run.rounds": 80, "run.checkpoint_every": 10})
    command = ("simulate", "--config", "run.toml", "--out", "simulated")
    first = fleet.start("simulate", *command)
    until((fleet.folder / "simulated" / "node-3" / "checkpoints" / "round-000000030").exists, "round 30")
    first.interrupt()
    first.exits(130)
    done, last = first.errors[-2:]
    assert done.endswith("rounds done; the same command resumes from simulated")
    assert last == "edgenode: interrupted"
    assert not (fleet.folder / "simulated" / "result.json").exists()

    again = fleet.command(*command)
    again.logs(r"resuming from round [2-7]0 of 82, saved in simulated")
    fleet.command("simulate", "--config", "run.toml", "--out", "whole")
    assert models(fleet.folder / "simulated") == models(fleet.folder / "whole")
    assert result(fleet.folder / "simulated" / "result.json") == result(fleet.folder / "whole" / "result.json")
