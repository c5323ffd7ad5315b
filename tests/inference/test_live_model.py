"""LiveModel follows a node's published model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import edgenode
from edgenode import ConfigError, LiveModel
from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation
from edgenode.storage import model_file
from edgenode.tasks import datasets


def publish(path: Path, value: float, t: int = 1, **metadata: str) -> None:
    tensors = {"weight": torch.full((2, 3), value), "bias": torch.zeros(2)}
    model_file.write(path, tensors, {"round": str(t), **metadata})


def test_model_of_ones_own_gets_each_newer_version(tmp_path: Path) -> None:
    path, model = tmp_path / "m", nn.Linear(3, 2)
    publish(path, 1.0, 10)
    live = LiveModel(path, model)
    assert live.model is model
    assert not model.training
    assert (live.round, model.weight.unique().tolist()) == (10, [1.0])
    assert not live.refresh()
    publish(path, 2.0, 20)
    assert live.refresh()
    assert (live.round, model.weight.unique().tolist()) == (20, [2.0])
    publish(path, 1.5, 15)  # a node that resumes publishes again
    assert live.refresh()
    assert live.round == 15


def test_refresh_waits_for_a_newer_version(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1.0)
    live = LiveModel(tmp_path / "m", nn.Linear(3, 2))
    began = time.monotonic()
    assert not live.refresh(wait_s=0.15)
    assert time.monotonic() - began > 0.15
    timer = threading.Timer(0.2, publish, (tmp_path / "m", 2.0, 2))
    timer.start()
    assert live.refresh(wait_s=20)
    timer.join()
    assert live.round == 2


def test_first_version_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"m does not exist: a node writes it every run\.publish_every rounds"):
        LiveModel(tmp_path / "m", nn.Linear(3, 2))
    timer = threading.Timer(0.2, publish, (tmp_path / "m", 3.0))
    timer.start()
    assert LiveModel(tmp_path / "m", nn.Linear(3, 2), wait_s=20).round == 1
    timer.join()


def test_missing_file_later_keeps_the_loaded_model(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1.0)
    live = LiveModel(tmp_path / "m", nn.Linear(3, 2))
    (tmp_path / "m").unlink()
    assert not live.refresh()
    assert live.model.weight.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("model", "difference"),
    [
        (nn.Linear(3, 4), r"bias is \[2\] in the file and \[4\] in the model"),
        (nn.Linear(3, 2, bias=False), "the model has no bias"),
        (nn.Sequential(nn.Linear(3, 2)), "it has no 0.bias, which the model has"),
    ],
)
def test_other_models_are_refused_whole(tmp_path: Path, model: nn.Module, difference: str) -> None:
    publish(tmp_path / "m", 9.0)
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(ConfigError, match=f"m does not fit the model: {difference}"):
        LiveModel(tmp_path / "m", model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


def test_named_model_is_rebuilt_with_its_normalisation(tmp_path: Path) -> None:
    settings = {"run.nodes": 1, "run.threads": 1, "run.rounds": 40, "algorithm.name": "sp", "task.batch_size": 64}
    result = Simulation(load(None, settings, environ={}), tmp_path).run()
    live = LiveModel(tmp_path / "node-0")  # the state folder
    digits = datasets.load("digits")
    with torch.inference_mode():
        guesses = live.model(digits.test_images).argmax(1)
    accuracy = (guesses == digits.test_labels).float().mean().item()
    assert accuracy == pytest.approx(result["nodes"][0]["test_accuracy"])
    assert accuracy > 0.5
    assert live.round == 40
    assert live.classes == tuple("0123456789")
    assert live.metadata["node"] == "node-0"


def test_file_without_a_description_needs_a_model(tmp_path: Path) -> None:
    publish(tmp_path / "m", 1.0, model="Linear")
    with pytest.raises(ConfigError, match="holds a model of your own, Linear: give the model to load it into"):
        LiveModel(tmp_path / "m")


@pytest.mark.parametrize(
    "image",
    [
        "not JSON",
        json.dumps({"size": 8}),
        json.dumps({"size": 10**9, "mean": [0], "std": [1]}),
        json.dumps({"size": 8, "mean": [0, 0], "std": [1]}),
        json.dumps({"size": 8, "mean": [0], "std": [0]}),
    ],
)
def test_impossible_description_is_refused(tmp_path: Path, image: str) -> None:
    publish(tmp_path / "m", 1.0, model="small-cnn", norm="group", classes='["a", "b"]', image=image)
    with pytest.raises(ConfigError, match="does not describe its model"):
        LiveModel(tmp_path / "m")


@pytest.mark.slow
def test_reader_needs_no_network_code(published: Path, tmp_path: Path) -> None:
    shutil.copy(published, tmp_path / "model.safetensors")
    program = f"""
import sys, edgenode
edgenode.LiveModel({str(tmp_path)!r})
print([name for name in ("grpc", "zeroconf", "starlette", "edgenode.net") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert edgenode.LiveModel is LiveModel
