"""A run that was stopped or killed resumes, with results bit-identical to those of an uninterrupted run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from edgenode.addresses import free_ports
from tests.e2e.fleet import Fleet, Process

# All runs share a cluster name, because it is part of the run digest. Other test processes have other names.
RUN = {
    "run.cluster": f"e2e-resume-{os.getpid()}",
    "run.nodes": 3,
    "run.rounds": 80,
    "topology.graphs": ["a", "b"],
    "algorithm.gossip_graph": "complete",  # one round averages any number of nodes
}
pytestmark = pytest.mark.group("resume")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The models of a run without faults."""
    with Fleet(tmp_path_factory.mktemp("uninterrupted")) as fleet:
        fleet.configure(RUN)
        for process in (fleet.controller(), *fleet.nodes(3)):
            process.exits(0)
        return models(fleet)


def models(fleet: Fleet) -> dict[str, dict[str, bytes]]:
    """Node -> tensor -> its bytes."""
    return {f"node-{i}": tensors(fleet.state(f"node-{i}") / "model.safetensors") for i in range(3)}


def tensors(file: Path) -> dict[str, bytes]:
    return {name: tensor.tobytes() for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_stopped_run_resumes_bit_identical(fleet: Fleet, uninterrupted: dict[str, dict[str, bytes]]) -> None:
    fleet.configure(RUN)
    first = [fleet.controller(), *fleet.nodes(3)]
    first[1].logs("epoch done")
    with first[3].suspended():
        stop = fleet.command("stop", "--detach", "--cluster", str(RUN["run.cluster"]))
    assert "To resume from there, start edgenode controller, and edgenode run" in stop.stdout
    for process in first:
        process.exits(0)
    rounds = {node.logs(r"run stopped.* rounds=(\d+)")[1] for node in first[1:]}
    assert len(rounds) == 1
    assert models(fleet) != uninterrupted

    for process in (fleet.controller(), *fleet.nodes(3)):
        process.exits(0)
        if process.name != "controller":
            assert process.logs(r"run begins .*round=(\d+)")[1] in rounds
    assert models(fleet) == uninterrupted


@pytest.mark.parametrize(
    "with_controller",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["with a controller", "with fixed peers"],
)
def test_run_resumes_bit_identical_after_a_power_cut(
    fleet: Fleet, uninterrupted: dict[str, dict[str, bytes]], with_controller: bool
) -> None:
    fleet.configure(RUN)
    ports = free_ports(3)

    def powered() -> list[Process]:
        return [*fleet.nodes(3), fleet.controller()] if with_controller else fleet.static(ports)

    first = powered()
    first[0].logs(r"epoch done .*epoch=4 ")
    for process in first:
        process.popen.kill()
    for process in first:
        process.popen.wait()
    assert not (fleet.state("node-0") / "model.safetensors").exists()

    again = powered()
    for process in again:
        process.exits(0)
    assert all(int(node.logs(r"run begins .*round=(\d+)")[1]) >= 20 for node in again[:3])
    assert models(fleet) == uninterrupted

    (fleet.state("node-0") / "result.json").unlink()
    finished = powered()  # the run is complete, so they only report
    for process in finished:
        process.exits(0)
    assert {node.logs(r"run begins .*round=(\d+)")[1] for node in finished[:3]} == {"81"}
    assert models(fleet) == uninterrupted
    assert (fleet.state("node-0") / "result.json").exists()
