"""A run that was stopped or killed goes on to the same bits as one that never was."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.fleet import Fleet, free_ports

RUN = {"run.cluster": "e2e-resume", "run.rounds": 240}  # one name for all: the cluster is part of the run digest


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The models of a run that nothing happened to."""
    with Fleet(tmp_path_factory.mktemp("uninterrupted")) as fleet:
        fleet.configure(RUN)
        for process in (fleet.controller(), *fleet.nodes(4)):
            process.ended(0)
        return models(fleet)


def models(fleet: Fleet) -> dict[str, dict[str, bytes]]:
    """Node -> tensor -> its bytes."""
    return {f"node-{i}": tensors(fleet.state(f"node-{i}") / "model.safetensors") for i in range(4)}


def tensors(file: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(file).items()}


@pytest.mark.timeout(90)
def test_a_stopped_run_resumes_to_the_bit(fleet: Fleet, uninterrupted: dict[str, dict[str, bytes]]) -> None:
    fleet.configure(RUN)
    first = [fleet.controller(), *fleet.nodes(4)]
    first[1].says("epoch done")
    stop = fleet.command("stop", "--cluster", str(RUN["run.cluster"]))
    assert "go on with --resume" in stop.stdout
    for process in first:
        process.ended(0)
    rounds = {node.says(r"run stopped.* rounds=(\d+)")[1] for node in first[1:]}
    assert len(rounds) == 1
    assert models(fleet) != uninterrupted

    for process in (fleet.controller(), *fleet.nodes(4, "--resume")):
        process.ended(0)
        if process.name != "controller":
            assert process.says(r"run begins .*round=(\d+)")[1] in rounds
    assert models(fleet) == uninterrupted


@pytest.mark.timeout(90)
def test_killed_nodes_without_a_controller_resume_to_the_bit(
    fleet: Fleet, uninterrupted: dict[str, dict[str, bytes]]
) -> None:
    fleet.configure(RUN)
    ports = free_ports(4)
    first = fleet.static(ports)
    first[0].says(r"epoch done .*epoch=5 ")
    for node in first:
        node.kill()
    assert not (fleet.state("node-0") / "model.safetensors").exists()

    again = fleet.static(ports, "--resume")
    for node in again:
        node.ended(0)
        assert int(node.says(r"run begins .*round=(\d+)")[1]) >= 20
    assert models(fleet) == uninterrupted
