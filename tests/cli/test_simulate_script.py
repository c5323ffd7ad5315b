"""`edgenode simulate SCRIPT`: a training loop of one's own as the nodes of a simulation, in real processes."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.e2e.fleet import Fleet, alive, descendants, until

# Nodes that begin with different models, and have statistics, a schedule and dropout.
LOOP = """
import os
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import edgenode

index, nodes = map(int, sys.argv[1].split("/"))
torch.manual_seed(index)
{before}
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
x = torch.randn(32 + 8 * index, 6)
y = (x.sum(1) > 0).long()
optimizer = torch.optim.Adam(model.parameters(), 0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
mesh = edgenode.Mesh(model, None, optimizer, schedule, settings={settings})

@mesh.evaluate
def accuracy():
    return (model(x).argmax(1) == y).float().mean().item()

for rows, labels in mesh.loop(DataLoader(TensorDataset(x, y), 8, shuffle=True)):
    loss = nn.functional.cross_entropy(model(rows), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    last = index == 2 and mesh.round == 4
    {step}
    mesh.step(loss)
print("done", mesh.round, mesh.result["nodes"][0]["node"], mesh.state_dir.name)
"""
SHARED = ("run.evaluate_every=4", "run.checkpoint_every=5", "algorithm.name=sp", "algorithm.share=0.3")
SETTINGS = ("run.rounds=12", *SHARED)
CANNOT = "node-2 in round 4, which cannot be simulated: use edgenode launch"


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as made:
        yield made


def write(fleet: Fleet, before: str = "", step: str = "pass", settings: str = "None") -> None:
    filled = LOOP.replace("{before}", before).replace("{step}", step).replace("{settings}", settings)
    (fleet.folder / "train.py").write_text(textwrap.dedent(filled))


def words(*options: str, settings: tuple[str, ...] = SETTINGS) -> tuple[str, ...]:
    sets = tuple(word for key in settings for word in ("--set", key))
    return ("simulate", "--nodes", "3", *sets, *options, "train.py", "--", "{index}/{nodes}")


def models(folder: Path) -> dict[str, dict[str, bytes]]:
    files = {f"node-{i}": folder / f"node-{i}" / "model.safetensors" for i in range(3)}
    return {name: {t: value.tobytes() for t, value in load_file(file).items()} for name, file in files.items()}


def rows(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "result.json").read_text())["nodes"])


@pytest.mark.slow
def test_script_is_simulated_and_resumes_to_the_bit(fleet: Fleet) -> None:
    write(fleet)
    whole = fleet.command(*words("--out", "whole", "--json"))
    assert json.loads(whole.stdout) == json.loads((fleet.folder / "whole" / "result.json").read_text())
    for i in range(3):
        assert f"node-{i} | done 11 node-{i} node-{i}\n" in whole.stderr
    assert "round 12 of 12, 0 s left, loss 0." in whole.stderr

    short = fleet.command(*words("--out", "twice", settings=("run.rounds=7", *SHARED)))
    assert "mean of 3 nodes" in short.stdout
    again = fleet.command(*words("--out", "twice"))
    assert "resuming from round 7 of 12, saved in twice" in again.stderr
    assert models(fleet.folder / "twice") == models(fleet.folder / "whole")
    assert rows(fleet.folder / "twice") == rows(fleet.folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "keys"),
    [
        pytest.param(("0", "90"), ("algorithm.gossip_graph=one-peer-exponential", "run.checkpoint_every=4"), id="scsp"),
        pytest.param(
            ("18", "72"), ("task.objective=samples", 'task.shared=["0", "1"]', "algorithm.name=sp"), id="own parts"
        ),
    ],
)
def test_simulation_is_bit_identical_to_a_launch(fleet: Fleet, counts: tuple[str, str], keys: tuple[str, ...]) -> None:
    write(fleet)
    command, *rest = words(settings=("run.rounds=12", "run.evaluate_every=4", "algorithm.share=0.3", *keys))
    simulated = fleet.command(command, "--out", "simulated", *rest).stderr
    launched_log = fleet.command("launch", "--out", "launched", *rest).stdout
    assert models(fleet.folder / "simulated") == models(fleet.folder / "launched")
    for i, row in enumerate(rows(fleet.folder / "simulated")):
        (launched,) = rows(fleet.folder / "launched" / f"node-{i}")
        same = "test_accuracy", "u", "rounds", "messages", "payload_bytes", "dense_bytes"
        assert [row[key] for key in same] == [launched[key] for key in same]
    assert set(re.findall(r"data loaded +local_parameters=(\d+) .*shared_parameters=(\d+)", launched_log)) == {counts}
    assert "node-0, node-1, node-2: shared_parameters={1} local_parameters={0}\n".format(*counts) in simulated


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code", "line"),
    [
        ({"step": "assert mesh.round < 3 or index != 1"}, 1, "node-1 ended with exit code 1; its last lines are above"),
        slow({"before": "os.kill(os.getpid(), 9)"}, 1, "node-. was killed by SIGKILL; its last lines are above"),
        slow({"before": "sys.exit()"}, 1, "node-. ended before the run: its script has to iterate over mesh.loop .*"),
        ({"step": "if last: mesh.stop()"}, 1, rf"mesh.stop\(\) was called at {CANNOT}"),
        slow({"step": "if last: break"}, 1, rf"the loop was left before the run ended \(break, .*\) at {CANNOT}"),
        slow({"settings": "{'run.nodes': 2}"}, 2, "run.nodes = 2 in the script, but 3 are simulated"),
        slow({"settings": "{'run.seed': index}"}, 2, "node-1 does not fit node-0: run.seed is 1, not 0"),
        slow({"step": "loss = loss * float('nan')"}, 1, "training diverged at node-. in round 0: the loss is nan; .*"),
    ],
)
def test_what_ends_one_script_ends_all_with_one_line(
    fleet: Fleet, changes: dict[str, str], code: int, line: str
) -> None:
    write(fleet, **changes)
    ended = fleet.command(*words(), code=code)
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(f"edgenode: {line}", last), ended.stderr
    if "assert" in changes.get("step", ""):
        assert "node-1 | AssertionError" in ended.stderr
        assert 'node-1 |   File "train.py", line ' in ended.stderr
        assert "runpy" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ignores", [False, True])
def test_ctrl_c_ends_all(fleet: Fleet, ignores: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else ""
    write(fleet, ignore, "import time; print('in', mesh.round); time.sleep(60)")
    running = fleet.start("simulate", *words())
    until(lambda: all(f"node-{i} | in 0" in running.stderr for i in range(3)), "the first round")
    scripts = descendants(running.popen.pid)
    assert len(scripts) == 3
    running.interrupt()
    running.exits(130)
    assert running.stderr.endswith("0 of 12 rounds done; nothing is saved without --out DIR\nedgenode: interrupted\n")
    assert not alive(scripts)


@pytest.mark.slow
def test_killed_simulation_leaves_no_script(fleet: Fleet) -> None:
    write(fleet, step="import time; print('in', mesh.round); time.sleep(0.2)")
    running = fleet.start("simulate", *words())
    until(lambda: "node-2 | in 0" in running.stderr, "the first round")
    scripts = descendants(running.popen.pid)
    running.kill()
    until(lambda: not alive(scripts), "the end of the scripts")


def test_file_that_is_missing_is_refused(fleet: Fleet) -> None:
    assert "nowhere.py is not a file; a module needs -m" in fleet.command("simulate", "nowhere.py", code=2).stderr
