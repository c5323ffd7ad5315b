"""Scripts that stop early, in real processes: the run ends well, and so do the launch and its controller."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.fleet import Fleet

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import torch
from torch import nn
import edgenode

how, index = sys.argv[1], int(sys.argv[2])
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
mesh = edgenode.Mesh(model, None, optimizer)
for batch in mesh.loop([torch.ones(2, 4)] * 5):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mesh.step(loss=loss)
    if mesh.round == 20 + (7 * index if how == "apart" else 0):
        if how == "stop" and index == 1:
            mesh.stop()
        if how != "stop":
            break
print("ended in round", mesh.round, "of", mesh.result["nodes"][0]["rounds"])
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("early")) as made:
        (made.folder / "train.py").write_text(SCRIPT)
        yield made


def ended(fleet: Fleet, how: str, *settings: str) -> list[int]:
    """Launch three nodes that end early, and return the rounds of their results."""
    out = f"{how}-{len(fleet.processes)}"
    keys = ("run.rounds=100000", "run.evaluate_every=0", *settings)
    options = [word for key in keys for word in ("--set", key)]
    launched = fleet.start(how, "launch", "--nodes", "3", "--out", out, *options, "train.py", how, "{index}").exits(0)
    assert len(re.findall(r"node-\d \| ended in round", launched.stdout)) == 3
    assert "the run is over: stopped" in launched.stdout
    folders = [fleet.folder / out / f"node-{i}" for i in range(3)]
    assert all((folder / "model.safetensors").exists() for folder in folders)
    return [json.loads((folder / "result.json").read_text())["nodes"][0]["rounds"] for folder in folders]


@pytest.mark.parametrize(
    ("how", "settings"), [("break", ()), ("apart", ()), ("apart", ("run.min_nodes=3",)), ("stop", ())]
)
def test_a_launch_whose_scripts_stop_early_ends_well(fleet: Fleet, how: str, settings: tuple[str, ...]) -> None:
    rounds = ended(fleet, how, *settings)
    assert all(20 < t < 1000 for t in rounds)
    if how == "stop" or settings:
        assert len(set(rounds)) == 1  # all stop before the same round
