"""Loops of one's own that end before their run: the controller's log says what happened."""

from __future__ import annotations

import re

import pytest

from tests.e2e.fleet import Fleet

SCRIPT = """
import os, signal, sys, edgenode, torch

node, how = int(sys.argv[1]), sys.argv[2]
model = torch.nn.Linear(2, 1)
mesh = edgenode.Mesh(model)
for x in mesh.loop([torch.ones(4, 2)]):
    if node == 1 and mesh.round == 6:
        break
    if node == 2 and os.path.exists("left"):
        if how == "raise":
            raise ValueError("no such\\nbatch")
        os.kill(os.getpid(), signal.SIGINT)
    mesh.step()
if node == 1:
    open("left", "w").close()
"""
SETTINGS = {"run.rounds": 100_000, "run.evict_after_s": 1}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("how", "end", "reason"),
    [
        ("raise", "ended with exit code 1", "'ValueError: no such batch'"),
        ("interrupt", "was killed by SIGINT", "interrupted"),
    ],
)
def test_controller_logs_why_a_loop_ended(fleet: Fleet, how: str, end: str, reason: str) -> None:
    """Node 1 leaves. Then node 2 fails, which ends the launch."""
    (fleet.folder / "ends.py").write_text(SCRIPT)
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    launch = ["launch", "--nodes", "3", "--out", "out", *sets, "ends.py", "--", "{index}", how]
    run = fleet.start("launch", *launch).exits(1)
    shown = run.stdout + run.stderr
    assert re.findall(r"controller \| .*node failed +node=(\S+) reason=(.*)", shown) == [("node-2", reason)]
    assert f"node-2 {end}" in shown
    assert re.search(r"node-1 \| .*training has ended on this node before the run", shown)
