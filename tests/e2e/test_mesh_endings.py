"""Loops of one's own that end before their run: the controller's log says what happened."""

from __future__ import annotations

import re

import pytest

from tests.e2e.fleet import Fleet

SCRIPT = """
import os, signal, sys, edgenode, torch

at = int(sys.argv[1])
model = torch.nn.Linear(2, 1)
mesh = edgenode.Mesh(model)
for x in mesh.loop([torch.ones(4, 2)]):
    if at and mesh.round == 6 * at:
        if at == 1:
            break
        if at == 2:
            raise ValueError("no such\\nbatch")
        os.kill(os.getpid(), signal.SIGINT)
    mesh.step()
"""
SETTINGS = {"run.rounds": 30, "run.evict_after_s": 1}

pytestmark = pytest.mark.slow


def test_controller_logs_why_each_loop_ended(fleet: Fleet) -> None:
    (fleet.folder / "ends.py").write_text(SCRIPT)
    sets = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    run = fleet.start("launch", "launch", "--nodes", "4", "--out", "out", *sets, "ends.py", "--", "{index}").exits(1)
    reasons = dict(re.findall(r"controller \| .*node failed +node=(\S+) reason=(.*)", run.stdout + run.stderr))
    assert reasons == {  # node-1 leaves
        "node-2": "'ValueError: no such batch'",
        "node-3": "interrupted",
    }
    assert re.search(r"node-1 \| .*training has ended on this node before the run", run.stdout + run.stderr)
