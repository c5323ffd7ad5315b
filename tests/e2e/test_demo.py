"""`edgenode demo`: the result that it promises, and its end by Ctrl-C."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from stat import S_IMODE

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.e2e.fleet import Fleet, alive, descendants, until

KEYS = {
    "schema", "algorithm", "compressor", "nodes", "mean_test_accuracy", "parameter_divergence_l2",
    "parameter_divergence_mse", "sum_u", "compression_factor", "wall_s",
}  # fmt: skip
NODE_KEYS = {"node", "test_accuracy", "u", "rounds", "messages", "payload_bytes", "wire_bytes"}


@pytest.mark.parametrize(
    ("options", "accuracy"),
    [
        pytest.param(["--rounds", "300"], 0.95, id="short"),
        pytest.param([], 0.96, id="default", marks=pytest.mark.slow),
    ],
)
def test_demo_trains_one_model_with_a_fiftieth_of_the_bytes(fleet: Fleet, options: list[str], accuracy: float) -> None:
    out = fleet.folder / "out"
    before = os.times()
    demo = fleet.command("demo", "--json", "--out", str(out), *options, timeout_s=280, spawn=subprocess.Popen)
    after = os.times()

    result = json.loads(demo.stdout)
    assert json.loads((out / "result.json").read_text()) == result
    assert result.keys() >= KEYS
    assert [node["node"] for node in result["nodes"]] == [f"node-{i}" for i in range(4)]
    assert all(node.keys() >= NODE_KEYS for node in result["nodes"])

    assert result["mean_test_accuracy"] >= accuracy
    assert sum(n["payload_bytes"] for n in result["nodes"]) <= sum(n["dense_bytes"] for n in result["nodes"]) / 50
    assert all(n["wire_bytes"] < 1.5 * n["payload_bytes"] for n in result["nodes"])
    assert result["sum_u"] == pytest.approx(4, abs=1e-9)
    # On two processors that do nothing else, it takes less than 90 s.
    processor_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert processor_s < 2 * 90
    assert 0 < result["wall_s"] <= after.elapsed - before.elapsed

    assert S_IMODE((out / "logs").stat().st_mode) == 0o700  # the controller's log has a link that signs in to the page
    log = (out / "logs" / "node-0.log").read_text()
    assert "accuracy=None" not in log
    measured = [int(t) for t in re.findall(r"test accuracy .*accuracy=0\.\d+ .*round=(\d+)", log)]
    assert measured == list(range(25, measured[-1] + 1, 25))  # each once, when it was measured

    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    models = [_flat(load_file(out / f"node-{i}" / "model.safetensors")) for i in range(4)]
    assert all(np.abs(model - models[0]).max() < 1e-5 for model in models)
    assert 0 <= result["parameter_divergence_l2"] < 1e-4


def _flat(tensors: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
@pytest.mark.parametrize(("name", "log_of"), [("the controller", "controller"), ("node-2", "node-2")])
def test_demo_names_the_process_that_was_killed(fleet: Fleet, name: str, log_of: str) -> None:
    out = fleet.folder / "out"
    demo = fleet.start("demo", "demo", "--out", str(out))
    log = out / "logs" / "node-0.log"
    until(lambda: log.exists() and "epoch done" in log.read_text(), "node-0 has trained an epoch")
    children = descendants(demo.popen.pid)
    (victim,) = (pid for pid in children if Path(f"/proc/{pid}/fd/1").readlink().name == f"{log_of}.log")
    os.kill(victim, signal.SIGKILL)

    demo.exits(1)
    assert demo.stderr.splitlines()[-1] == (
        f"edgenode: {name} was killed by SIGKILL, which the system also sends when memory runs out; "
        f"logs are in {out / 'logs'}"
    )
    until(lambda: not alive(children), "the processes have ended")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for survivors in /proc")
@pytest.mark.parametrize("moment", ["while the processes start", "while it trains"])
def test_ctrl_c_ends_every_process_and_names_the_results(fleet: Fleet, moment: str) -> None:
    out = fleet.folder / "out"
    demo = fleet.start("demo", "demo", "--json", "--out", str(out))
    log = out / "logs" / "node-0.log"
    until(lambda: log.exists() and descendants(demo.popen.pid), "the demo has started a node")
    if moment == "while it trains":
        until(lambda: log.exists() and "epoch done" in log.read_text(), "node-0 has trained an epoch")
    else:
        time.sleep(random.uniform(0, 1.5))  # any moment will do
    children = descendants(demo.popen.pid)
    demo.interrupt()

    demo.exits(130)
    assert demo.stderr.splitlines()[-1] == f"edgenode: interrupted; results so far are in {out}"
    assert children
    until(lambda: not alive(children), "the processes have ended")
