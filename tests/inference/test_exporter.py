"""Exported files compute what the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import nn

from edgenode.cli import group
from edgenode.errors import ConfigError, EdgenodeError
from edgenode.inference import exporter
from edgenode.inference.live_model import LiveModel
from edgenode.storage import model_file
from edgenode.tasks import datasets
from tests.inference.conftest import simulate

TASK = """
import torch
from torch import nn
from edgenode import Task

class Points:
    def __len__(self):
        return 50
    def __getitem__(self, index):
        return torch.linspace(-1, 1, 6) * index / 50, index % 3

class Own(Task):
    def __init__(self, width=4, two_inputs=False):
        self.width, self.two_inputs = width, two_inputs
    def model(self):
        return nn.Sequential(nn.Linear(6, self.width), nn.BatchNorm1d(self.width), nn.ReLU(), nn.Linear(self.width, 3))
    def train_data(self, node):
        return Points()
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(group, ["export", *map(str, arguments)])


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run.toml of a task that a node has trained in tmp_path/node-0."""
    module = f"own_task_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    run_toml = tmp_path / "run.toml"
    run_toml.write_text(f'[task]\nentry = "{module}:Own"\noptions = {{width = 5}}\n')
    simulate(tmp_path, task__entry=f"{module}:Own", task__options={"width": 5})
    return run_toml


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # no replacement for C++ programs yet
def test_torchscript_takes_pixels_and_any_number_of_samples(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "digits.pt"
    done = run(published, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"written: {out} (the model of node-0 after 3 rounds)" in done.output
    assert "input: float32 [batch, 1, 8, 8]; largest difference" in done.output
    extra = {"metadata.json": ""}
    script = torch.jit.load(str(out), _extra_files=extra)
    images, live = datasets.load("digits").test_images[:7], LiveModel(published)
    with torch.inference_mode():
        assert torch.allclose(script(images), live.model(images), atol=1e-5)
    assert json.loads(extra["metadata.json"]) == live.metadata
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.slow
def test_onnx_computes_the_same_in_onnx_runtime(published: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "digits.onnx"
    done = run(published.parent, "--out", out)  # the state folder
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    images, live = datasets.load("digits").test_images[:7].float(), LiveModel(published)
    (found,) = session.run(None, {"input": images.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(found), live.model(images), atol=1e-5)
    kept = session.get_modelmeta().custom_metadata_map
    assert {key: kept[key] for key in live.metadata} == live.metadata


@pytest.mark.slow
def test_onnx_of_a_task_of_ones_own_has_its_statistics(own_task: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    out = tmp_path / "own.onnx"
    done = run(tmp_path / "node-0", "--out", out, "--config", own_task)
    assert done.exit_code == 0, done.output
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    live, inputs = LiveModel(tmp_path / "node-0", model), torch.randn(4, 6)
    (found,) = ReferenceEvaluator(str(out)).run(None, {"input": inputs.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(found), live.model(inputs), atol=1e-5)


@pytest.mark.parametrize("shape", [(), ("--input-shape", "6")])
def test_task_of_ones_own_is_found_by_its_entry(own_task: Path, tmp_path: Path, shape: tuple[str, ...]) -> None:
    out = tmp_path / "own.ts"
    done = run(tmp_path / "node-0", "--out", out, "--config", own_task, *shape)
    assert done.exit_code == 0, done.output
    assert "input: float32 [batch, 6]" in done.output
    without = run(tmp_path / "node-0", "--out", out)
    assert without.exit_code == 2
    assert "holds a model of your own, Sequential: give the run.toml whose task.entry made it" in without.output
    other = run(tmp_path / "node-0", "--out", out, "--config", own_task, "--set", 'task.options={"width": 4}')
    assert other.exit_code == 2
    assert "does not fit the model: 0.bias is [5] in the file and [4] in the model" in other.output
    wrong = run(tmp_path / "node-0", "--out", out, "--config", own_task, "--input-shape", "7")
    assert wrong.exit_code == 2
    assert "the model does not take inputs of [3, 7]: " in wrong.output


def test_safetensors_keeps_tensors_and_metadata(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    done = run(published, "--format", "safetensors", "--out", out)
    assert done.exit_code == 0, done.output
    found, original = load_file(out), load_file(published)
    assert found.keys() == original.keys()
    assert all(torch.equal(found[name], original[name]) for name in found)
    assert model_file.read(out).metadata == model_file.read(published).metadata


class Sampling(nn.Module):
    """Draws numbers, so no file computes the same."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class OfTheFirst(nn.Module):
    """Depends on the number of samples that it was traced with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(len(x))


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x, x


@pytest.mark.parametrize("model", [Sampling(), OfTheFirst()])
def test_file_that_computes_something_else_is_not_written(tmp_path: Path, model: nn.Module) -> None:
    with pytest.raises(EdgenodeError, match="does not compute what the model does, and was not written: its outputs"):
        exporter.write(tmp_path / "m.pt", "torchscript", model, torch.ones(3, 2), {})
    assert list(tmp_path.iterdir()) == []


def test_models_of_several_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model returns tuple, but an exported model must return one tensor"):
        exporter.write(tmp_path / "m.pt", "torchscript", Pair(), torch.ones(3, 2), {})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--out", "model.bin"), 'give --format, or one of the suffixes ".safetensors", ".pt", ".ts" or ".onnx"'),
        (("--out", "m.pt", "--input-shape", "3,x"), "--input-shape 3,x: expected whole numbers, 1 or more"),
        (("--out", "m.pt", "--input-shape", "0"), "--input-shape 0: expected whole numbers, 1 or more"),
    ],
)
def test_wrong_options_are_refused(published: Path, arguments: tuple[str, ...], error: str) -> None:
    done = run(published, *arguments)
    assert done.exit_code == 2
    assert error in done.output
