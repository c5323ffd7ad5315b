"""An enrolled member that pushes noise is named, and stopped if run.on_poison says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.run_history import RunHistory
from tests.e2e.fleet import Fleet, Process, until
from tests.e2e.test_simulate import models

POISONER = str(Path(__file__).with_name("poisoner.py"))
PHASE_LIAR = str(Path(__file__).parents[1] / "phase_liar.py")
FIRST = 160  # its checkpoint is kept for 320 rounds more, also at the faulty node, which knows of no alarm
SETTINGS = {
    "run.evaluate_every": 10, "run.checkpoint_every": 10, "task.skew": 0.0, "task.norm": "group",
    "task.learning_rate": 0.05, "topology.graphs": ["complete"],
}  # fmt: skip
NAMED = rf"poison alarm .*member=node-3 reason='its message is \S+ times as long as expected' round={FIRST}\b"


def start(fleet: Fleet, on_poison: str, rounds: int) -> tuple[Process, list[Process], Process]:
    """The controller, three honest nodes, and the faulty one."""
    fleet.configure({**SETTINGS, "run.on_poison": on_poison, "run.rounds": rounds})
    controller = fleet.controller()
    faulty = fleet.node("node-3", program=[POISONER, str(FIRST)])
    return controller, fleet.nodes(3), faulty


def events(fleet: Fleet) -> list[tuple[str, int, str]]:
    history = RunHistory(fleet.state("controller"))
    (run,) = history.runs()
    return [(e["kind"], e["round"], e["text"]) for e in history.events(run["id"])]


def accuracy(file: Path) -> float:
    return float(json.loads(file.read_text())["mean_test_accuracy"])


@pytest.mark.slow
def test_faulty_member_is_named_and_evicted_and_the_others_finish(fleet: Fleet) -> None:
    controller, honest, faulty = start(fleet, "evict", rounds=240)
    fleet.command("simulate", "--config", "run.toml", "--out", "clean")
    for node in honest:
        node.logs(NAMED)
        node.exits(0)
    faulty.exits(1)
    assert re.search(r"node-3 was evicted, because its message of round \d+ raised the poison alarm", faulty.stderr)
    controller.exits(0)
    happened = events(fleet)
    assert ("poison alarm", FIRST) in [(kind, t) for kind, t, text in happened if text.startswith("node-3: ")]
    assert [text for kind, _, text in happened if kind == "evicted"] == ["node-3"]
    clean = accuracy(fleet.folder / "clean" / "result.json")
    assert clean > 0.9
    assert sum(accuracy(fleet.state(f"node-{i}") / "result.json") for i in range(3)) / 3 >= clean - 0.01


@pytest.mark.slow
def test_poisoned_run_goes_back_to_a_good_checkpoint_with_equal_bits(fleet: Fleet) -> None:
    controller, honest, faulty = start(fleet, "report", rounds=400)  # of which 240 are for the stop to come
    for node in honest:
        node.logs(NAMED)
        node.logs(
            rf"poison alarm .*reason='the own score fell from 0\.\d+ to 0\.\d+ since round {FIRST}; mixed since: node-"
        )
    fleet.stop([*honest, faulty])
    controller.exits(0)
    for node in honest:
        rounds = CheckpointStore(fleet.state(node.name), "").rounds()
        assert sorted(rounds)[:-2] == [0, 80, 120, 140, 150, FIRST]  # and the newest two
    assert [t for kind, t, text in events(fleet) if kind == "poison alarm"].count(FIRST) == 3

    wrong = fleet.node("node-0", "--resume-from", "90").exits(2)
    assert "there are checkpoints of these rounds: 0, 80, 120, 140, 150, 160, " in wrong.errors[-1]
    fleet.controller()
    for i in range(4):
        fleet.node(f"node-{i}", "--resume-from", str(FIRST))
    for node in fleet.processes[-4:]:
        node.exits(0)
        assert "poison alarm" not in node.stderr
    fleet.command("simulate", "--config", "run.toml", "--out", "clean")
    assert models(fleet.folder / "clean") == models(fleet.folder)


@pytest.mark.slow
def test_no_alarm_about_an_eviction_a_newcomer_or_a_leaver(fleet: Fleet) -> None:
    changes = {"run.rounds": 100_000, "run.evict_after_s": 3, "algorithm.share": 0.05, "run.on_poison": "pause"}
    fleet.configure({**SETTINGS, **changes, "task.skew": 0.8, "topology.graphs": ["a"]})
    controller, nodes = fleet.controller(), fleet.nodes(4)
    for node in nodes:
        node.logs(r"test accuracy .*round=60\b")
    nodes[3].kill()
    nodes[0].logs(r"without=\['node-3'\]")
    newcomer = fleet.node("node-3")
    after_rounds(newcomer, 80)
    nodes[2].popen.terminate()
    nodes[2].exits(0)
    nodes[0].logs(r"leaving=\['node-2'\]")
    after_rounds(newcomer, 40)
    fleet.stop([nodes[0], nodes[1], newcomer])
    controller.exits(0)
    assert [process.name for process in fleet.processes if "poison alarm" in process.stderr] == []


def after_rounds(node: Process, rounds: int) -> None:
    """Wait until a node has evaluated its model after so many more rounds."""
    found = re.findall(r"test accuracy .*round=(\d+)", node.stderr)
    begun = int(found[-1]) if found else int(node.logs(r"run begins .*round=(\d+)")[1])
    until(
        lambda: [t for t in re.findall(r"test accuracy .*round=(\d+)", node.stderr) if int(t) >= begun + rounds],
        node.tail,
    )


@pytest.mark.slow
@pytest.mark.parametrize("on_poison", ["report", "pause", "evict"])
def test_lie_in_the_last_phase_alone_costs_the_others_nothing(fleet: Fleet, on_poison: str) -> None:
    """They keep and publish the models that they had, say so, and end well. Nothing waits for an operator."""
    changes = {"run.rounds": 60, "run.evaluate_every": 60, "run.checkpoint_every": 30, "run.on_poison": on_poison}
    dense = {"algorithm.compressor": "identity", "algorithm.gossip_graph": "allreduce"}
    fleet.configure({**SETTINGS, **changes, **dense, "task.skew": 0.8})
    controller = fleet.controller()
    fleet.node("node-3", program=[PHASE_LIAR, "minus-three"])
    honest = fleet.nodes(3)
    for node in honest:
        before = float(node.logs(r"test accuracy .*accuracy=(\S+) round=60\b")[1])
        node.logs(r"the average of the last phase is refused: keeping the own model .*reason='it loses \d+%")
        node.exits(0)
        assert float(node.logs(r"run done .*accuracy=(\S+)")[1]) == before > 0.6
        (row,) = json.loads((fleet.state(node.name) / "result.json").read_text())["nodes"]
        assert row["test_accuracy"] == pytest.approx(before, abs=1e-4)
        assert "as far away as training came" in row["refusal"]
    controller.exits(0)
    assert len({(fleet.state(node.name) / "model.safetensors").read_bytes() for node in honest}) == 3
    noted = [text for kind, _, text in events(fleet) if kind == "poison alarm"]
    assert {text.split("reported by ")[1].rstrip(")") for text in noted} >= {node.name for node in honest}
    assert all(text.startswith("the average of the last phase is refused: it loses ") for text in noted)
    assert "paused" not in [kind for kind, _, _ in events(fleet)]
