"""A run that was stopped or killed goes on to the same bits as one that never was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.e2e.fleet import Fleet, Process, free_ports

# One name for all, as the cluster is part of the run digest; and one per test process, as others may run beside it.
RUN = {"run.cluster": f"e2e-resume-{os.getpid()}", "run.rounds": 240}


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
    with first[4].held():
        stop = fleet.command("stop", "--no-wait", "--cluster", str(RUN["run.cluster"]))
    assert "start the nodes again to resume from there" in stop.stdout
    for process in first:
        process.ended(0)
    rounds = {node.says(r"run stopped.* rounds=(\d+)")[1] for node in first[1:]}
    assert len(rounds) == 1
    assert models(fleet) != uninterrupted

    for process in (fleet.controller(), *fleet.nodes(4)):
        process.ended(0)
        if process.name != "controller":
            assert process.says(r"run begins .*round=(\d+)")[1] in rounds
    assert models(fleet) == uninterrupted


@pytest.mark.parametrize("led", [True, False], ids=["with a controller", "with fixed peers"])
@pytest.mark.timeout(120)
def test_after_a_power_cut_the_same_commands_go_on_to_the_bit(
    fleet: Fleet, uninterrupted: dict[str, dict[str, bytes]], led: bool
) -> None:
    fleet.configure(RUN)
    ports = free_ports(4)

    def powered() -> list[Process]:
        return [*fleet.nodes(4), fleet.controller()] if led else fleet.static(ports)

    first = powered()
    first[0].says(r"epoch done .*epoch=5 ")
    for process in first:
        process.popen.kill()
    for process in first:
        process.popen.wait()
    assert not (fleet.state("node-0") / "model.safetensors").exists()

    again = powered()
    for process in again:
        process.ended(0)
    assert all(int(node.says(r"run begins .*round=(\d+)")[1]) >= 20 for node in again[:4])
    assert models(fleet) == uninterrupted

    (fleet.state("node-0") / "result.json").unlink()
    finished = powered()  # nothing is left to do but to say so
    for process in finished:
        process.ended(0)
    assert {node.says(r"run begins .*round=(\d+)")[1] for node in finished[:4]} == {"242"}
    assert models(fleet) == uninterrupted
    assert (fleet.state("node-0") / "result.json").exists()
