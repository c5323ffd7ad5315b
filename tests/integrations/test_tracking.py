"""A loop of one's own, launched with each tracker and with trackers that fail: the run is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import torch
from edgenode import Mesh

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
mesh = Mesh(model, None, optimizer)
for points in mesh.loop([torch.randn(8, 4) for _ in range(10)]):
    loss = (model(points) - points.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    mesh.step(loss=loss)
"""
FAILS = "tracking fails, and the run continues"


def launched(folder: Path, target: str, rounds: int = 60) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(SCRIPT)
    length = f"run.rounds={rounds}"
    command = [sys.executable, "-m", "edgenode", "launch", "--nodes", "2", "--out", "out", "--set", length]
    environ = {**os.environ, "EDGENODE_TRACK": target, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [*command, "train.py"], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("run done") == 2
    return done


def test_tensorboard_of_a_launch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    assert FAILS not in launched(tmp_path, "tensorboard:events").stdout
    assert {path.name for path in (tmp_path / "events").iterdir()} == {"node-0", "node-1", "cluster"}


@pytest.mark.filterwarnings("ignore")  # of mlflow
def test_mlflow_of_a_launch(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert FAILS not in launched(tmp_path, "mlflow:sqlite:///mlflow.db").stdout
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = (known for known in client.search_experiments() if known.name.startswith("launch-"))
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(
        ["node-0", "node-1", "cluster"], "FINISHED"
    )
    assert all(run.data.metrics["bytes/sent"] > 0 for run in runs if run.info.run_name != "cluster")


def test_wandb_of_a_launch(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    assert FAILS not in launched(tmp_path, "wandb:boards").stdout
    assert len(list((tmp_path / "out" / "controller" / "wandb").glob("offline-run-*/*.wandb"))) == 3


@pytest.mark.parametrize(
    ("package", "target"), [("tensorboardX", "tensorboard:train.py/events"), ("mlflow", "mlflow:http://127.0.0.1:9")]
)
def test_run_ends_well_with_a_tracker_that_fails(tmp_path: Path, package: str, target: str) -> None:
    pytest.importorskip(package)
    assert launched(tmp_path, target).stdout.count(FAILS) == 1


@pytest.mark.filterwarnings("ignore")  # of mlflow
def test_mlflow_runs_continue_when_the_launch_resumes(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    client = None
    ids = list[dict[str, str]]()
    for rounds in (60, 120):
        assert FAILS not in launched(tmp_path, "mlflow:sqlite:///mlflow.db", rounds).stdout
        client = client or mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        (experiment,) = (known for known in client.search_experiments() if known.name.startswith("launch-"))
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        ids.append({run.info.run_name: run.info.run_id for run in runs})
    assert ids[0] == ids[1] and len(runs) == 3
    steps = [metric.step for metric in client.get_metric_history(ids[0]["node-0"], "bytes/sent")]
    assert steps == sorted(set(steps))
    assert steps[0] <= 63 < steps[-1]  # the first launch has 63 rounds, and may report the last one alone


def test_wandb_runs_continue_when_the_launch_resumes(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for rounds in (60, 120):
        assert FAILS not in launched(tmp_path, "wandb:boards", rounds).stdout
    folders = (tmp_path / "out" / "controller" / "wandb").glob("offline-run-*")
    ids = [folder.name.rpartition("-")[2] for folder in folders]
    assert (len(ids), len(set(ids))) == (6, 3)
