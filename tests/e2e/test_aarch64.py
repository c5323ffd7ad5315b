"""edgenode on an emulated Raspberry Pi 4: what `pip install -c deploy/cpu.txt .` brings there, and that it works."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import aarch64
from tests.e2e.aarch64 import ROOT, Board
from tests.e2e.fleet import Fleet, until

_WHY_NOT = aarch64.unavailable()
_PATIENCE_S = 600.0  # an emulated process starts in half a minute, and in several on a busy machine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
    pytest.mark.group("aarch64"),  # the first one makes the board
    pytest.mark.timeout(1500),
]

LOOP = """
import platform
import torch
import edgenode

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
mesh = edgenode.Mesh(model, "run.toml", optimizer)
for batch in mesh.loop([torch.rand(3, 4) for _ in range(5)]):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mesh.step(loss=loss)
print(platform.machine(), mesh.done)
"""


@pytest.fixture(scope="module")
def board() -> Board:
    return aarch64.make_board()


def result(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_constraints_select_wheels_without_cuda(python: str) -> None:
    options = ("--only-binary", ":all:", "--no-annotate", "--no-header", *aarch64.for_board(python))
    selected = aarch64.uv("pip", "compile", "--quiet", *options, str(ROOT / "pyproject.toml"))
    assert {"torch==2.9.1", "torchvision==0.24.1"} <= set(selected.splitlines())
    assert not re.search(r"^(nvidia|cuda|triton)\b", selected, re.MULTILINE), selected


def test_doctor_finds_no_problem_on_a_board(board: Board, fleet: Fleet) -> None:
    fleet.configure()
    where = ("--listen", "127.0.0.1:0", "--controller", "none", "--state-dir", "state")
    doctor = fleet.start("doctor", "doctor", "--config", "run.toml", *where, "--json", spawn=board.spawn)
    found = {finding["check"]: finding for finding in json.loads(doctor.exits(0, _PATIENCE_S).stdout)}
    assert " on aarch64, Linux" in found["python"]["text"]
    assert found["cuda"]["text"] == "torch is built without CUDA"
    for check in ("python", "packages", "torch", "cuda", "model", "memory", "disk"):
        assert found[check]["level"] == "ok", found[check]


def test_simulation_on_a_board_is_as_accurate_as_here(board: Board, fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 20, "topology.graphs": ["a"]})
    there = fleet.start("there", "simulate", "--json", spawn=board.spawn)
    here = fleet.command("simulate", "--json")
    printed = here.stdout, there.exits(0, _PATIENCE_S).stdout
    accuracies = [json.loads(text)["mean_test_accuracy"] for text in printed]
    assert accuracies[0] > 0.3  # it has learnt
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.02)


def test_loop_of_its_own_on_a_board_trains_with_one_here(board: Board, fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20, "topology.graphs": ["a"]})
    (fleet.folder / "loop.py").write_text(LOOP)
    address = fleet.controller().logs(r"controller ready .*listen=(\S+)")[1]
    variables = {"EDGENODE_CONTROLLER": address}
    there = fleet.script("there", "loop.py", variables=variables, spawn=board.spawn)
    here = fleet.script("here", "loop.py", variables=variables)
    for process, machine in ((there, "aarch64"), (here, platform.machine())):
        assert process.exits(0, _PATIENCE_S).stdout.splitlines()[-1] == f"{machine} True"
    ours, theirs = (result(fleet.state(name) / "result.json")["nodes"][0]["rounds"] for name in ("here", "there"))
    assert ours == theirs >= 20


def test_board_enrols_is_killed_and_rejoins(board: Board, fleet: Fleet) -> None:
    """It has no certificate before: its invite brings one."""
    fleet.configure(
        {"run.nodes": 4, "run.rounds": 1_000_000, "run.evict_after_s": 10, "run.min_nodes": 3, "topology.graphs": ["a"]}
    )
    controller = fleet.controller()
    address = controller.logs(r"controller ready .*listen=(\S+)")[1]
    where = ("--controller", address)
    invite = fleet.command("invite", "board", *where).stdout.split()[-1]
    options = ("--config", "run.toml", "--name", "board", "--state-dir", "board", "--listen", "127.0.0.1:0", *where)
    nodes = fleet.nodes(3, *where)

    killed = fleet.start("board", "run", *options, "--join", invite, spawn=board.spawn)
    killed.logs("epoch done", _PATIENCE_S)
    killed.kill()
    nodes[0].logs(r"plan changes .*without=\['board'\]", _PATIENCE_S)

    fleet.command("pause", *where)  # else three nodes take the processors from the emulated one
    back = fleet.start("board-again", "run", *options, spawn=board.spawn)
    back.logs("listening", _PATIENCE_S)
    fleet.command("resume", *where)
    back.logs("fetched the model", _PATIENCE_S)
    back.logs("epoch done", _PATIENCE_S)

    def members() -> list[str]:
        status = json.loads(fleet.command("status", "--json", *where).stdout)
        return sorted(node["node"] for node in status["nodes"])

    until(lambda: members() == ["board", "node-0", "node-1", "node-2"], "all are members again")
    fleet.stop([*nodes, back, controller], *where)
    rounds = {result(fleet.state(name) / "result.json")["nodes"][0]["rounds"] for name in ("node-0", "board")}
    assert len(rounds) == 1
