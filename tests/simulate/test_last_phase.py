"""A member of a simulation lies in the last phase alone. The others keep what they had before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.phase_judgement import COMMON_TEST
from edgenode.simulate.simulation import Simulation
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.model_file import MODEL_FILE
from tests.phase_liar import LIES, Lie, lying

pytestmark = pytest.mark.group("last phase")
ROUNDS = 60
LIAR = "node-1"
NOISE = 0.02  # of the accuracy
WEAK = ("constant", "zero", "u")  # they cost less than what is refused
SETTINGS: Mapping[str, object] = {
    "run.rounds": ROUNDS, "run.evaluate_every": ROUNDS, "run.checkpoint_every": ROUNDS, "run.threads": 1,
    "task.skew": 0.8, "task.learning_rate": 0.05, "algorithm.compressor": "identity", "topology.graphs": ["complete"],
}  # fmt: skip


def config(**changes: object) -> Config:
    return load(None, {**SETTINGS, **changes}, environ={})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A run of so many nodes that has trained, and that resumes at the beginning of its last phase."""
    return cache(lambda nodes: train(config(**{"run.nodes": nodes}), tmp_path_factory.mktemp("trained") / "run"))


def train(settings: Config, out: Path) -> Path:
    Simulation(settings, out).run()
    for node in out.glob("node-*"):
        CheckpointStore(node, "").rewind(ROUNDS)
    return out


def played(settings: Config, out: Path, lie: Lie | None) -> Simulation:
    """The last phase, in which one member may lie."""
    simulation = Simulation(settings, out)
    assert simulation.round == ROUNDS
    if lie is not None:
        learner = simulation._replicas[LIAR].learner
        learner.compress_update = partial(lying(lie), learner)  # type: ignore[method-assign]
    simulation.run()
    return simulation


def by_node(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["node"]: node for node in result["nodes"]}


def result_of(out: Path) -> dict[str, dict[str, Any]]:
    return by_node(json.loads((out / "result.json").read_text()))


def models_of(out: Path) -> dict[tuple[str, str], bytes]:
    files = {path.parent.name: load_file(path) for path in out.glob(f"*/{MODEL_FILE}")}
    return {(node, name): tensor.tobytes() for node, tensors in files.items() for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("nodes", [4, pytest.param(2, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_lie_costs_no_honest_node_what_it_had(
    trained: Callable[[int], Path], tmp_path: Path, nodes: int, name: str
) -> None:
    out = shutil.copytree(trained(nodes), tmp_path / "run")
    simulation = played(config(**{"run.nodes": nodes}), out, LIES[name])
    before, after = by_node(simulation.before_gossip() or {}), result_of(out)
    for node in after.keys() - {LIAR}:
        had = before[node]["test_accuracy"]
        assert after[node]["test_accuracy"] >= had - (COMMON_TEST.lost * had if name in WEAK else NOISE)
        if after[node]["refusal"] is not None:
            assert after[node]["test_accuracy"] == had


@pytest.mark.parametrize("name", ["minus-three", "sign", "hundred", "largest", "noise"])
def test_gross_lie_is_refused_and_said(trained: Callable[[int], Path], tmp_path: Path, name: str) -> None:
    out = shutil.copytree(trained(4), tmp_path / "run")
    simulation = played(config(), out, LIES[name])
    for node in result_of(out).keys() - {LIAR}:
        assert "times as far away as training came" in result_of(out)[node]["refusal"]
        assert any(who == node and not accusation.member for who, accusation in simulation.alarms)
    models = {(out / node / MODEL_FILE).read_bytes() for node in result_of(out).keys() - {LIAR}}
    assert len(models) == 3  # each has its own


def test_refused_average_stays_refused_when_a_run_resumes_at_its_end(
    trained: Callable[[int], Path], tmp_path: Path
) -> None:
    out = shutil.copytree(trained(4), tmp_path / "run")
    played(config(), out, LIES["minus-three"])
    first, models = result_of(out), models_of(out)
    (out / "result.json").unlink()
    again = Simulation(config(), out)
    assert again.round > ROUNDS
    again.run()
    for node, row in result_of(out).items():
        assert row["test_accuracy"] == first[node]["test_accuracy"]
        assert (row["refusal"] is None) == (first[node]["refusal"] is None)
    assert models_of(out) == models


def test_honest_average_is_taken_by_all(trained: Callable[[int], Path], tmp_path: Path) -> None:
    out = shutil.copytree(trained(4), tmp_path / "run")
    simulation = played(config(), out, None)
    assert [row["refusal"] for row in result_of(out).values()] == [None] * 4
    assert simulation.alarms == []
