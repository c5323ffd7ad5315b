"""Checks of the machine. Faults are real ones where a test can make them."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.doctor import Finding, Level, machine
from edgenode.node.resources import peak_memory_bytes
from edgenode.node.task_workload import TaskWorkload

VIEWING = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
import edgenode

class Flat(nn.Module):
    def forward(self, images):
        return images.view(len(images), -1)

class Viewing(edgenode.Task):
    def model(self):
        return nn.Sequential(nn.Conv2d(3, 8, 3), Flat(), nn.Linear(8 * 36, 2))

    def train_data(self, node):
        return TensorDataset(torch.rand(64, 3, 8, 8), torch.arange(64) % 2)
"""


def a_config(**settings: object) -> Config:
    return load(None, {key.replace("__", "."): value for key, value in settings.items()}, environ={})


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level.value for finding in findings}


# --- packages


def test_this_environment_has_no_problem() -> None:
    found = list(machine.installed())
    assert levels(found) == {"python": "ok", "packages": "ok"}
    assert "torch 2." in found[1].text


def test_every_unsuitable_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ["tomli; python_version < '3.0'", "mypy>=99; extra == 'dev'"]
    wanted = ["numpy>=1", "click>=99", "no-such-package>=1", *others]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    (found,) = [finding for finding in machine.installed() if finding.check == "packages"]
    assert found.level is Level.PROBLEM
    assert found.text.endswith(", but >=99 is required; no-such-package is missing")
    assert found.text.startswith("click is ")


def test_torch_of_a_board_vendor_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "boardtorch-2.5.0a0+872d972e41.nv24.8.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: boardtorch\nVersion: 2.5.0a0+872d972e41.nv24.8\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for wanted, level in (("boardtorch>=2.3,<3", "ok"), ("boardtorch>=2.6,<3", "problem")):
        monkeypatch.setattr("importlib.metadata.requires", lambda name, wanted=wanted: [wanted])
        assert levels(list(machine.installed()))["packages"] == level


def test_missing_reader_of_requirements_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    (found,) = [finding for finding in machine.installed() if finding.check == "packages"]
    assert (found.level, found.text) == (Level.PROBLEM, "packaging is missing")


# --- torch


def test_threads_and_device_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    (found,) = machine.torch(a_config(run__device="cpu", run__threads=1))
    assert found.level is Level.OK
    assert found.text.endswith(" on cpu, 1 of 2 physical cores")
    (found,) = machine.torch(a_config(run__device="cpu", run__threads=3))
    assert found.level is Level.WARNING


def test_missing_gpu_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (found,) = machine.torch(a_config(run__device="cuda"))
    assert found.level is Level.PROBLEM
    assert "finds no CUDA device" in found.text


def test_torchvision_that_does_not_load_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    (found,) = machine.torch(a_config())
    assert found.level is Level.PROBLEM
    assert "does not load: import of torchvision halted" in found.text


# --- the model of the run


def test_model_that_fits_is_trained_and_measured(tmp_path: Path) -> None:
    found = list(machine.model(a_config(run__threads=1, run__device="cpu"), tmp_path))
    assert levels(found) == {"model": "ok", "memory": "ok", "disk": "ok"}
    assert "small-cnn on digits: 19,338 parameters" in found[0].text


@pytest.mark.parametrize("asked", ["contiguous", "channels_last"])
def test_clearly_faster_memory_format_is_named(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"contiguous": 0.004, "channels_last": 0.004}
    monkeypatch.setattr(machine, "_size_and_step_s", lambda config, _: (100, seconds[config.task.memory_format]))
    other = "channels_last" if asked == "contiguous" else "contiguous"
    for other_s, advice in ((0.003, f', and 0.75 times as long with task.memory_format = "{other}"'), (0.0039, "")):
        seconds[other] = other_s
        found = next(machine.model(a_config(task__memory_format=asked), tmp_path))
        assert found.text == f"small-cnn on digits: 100 parameters, 4 ms a step{advice}"


def test_model_that_cannot_take_another_memory_format_has_no_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "viewing.py").write_text(VIEWING)
    monkeypatch.syspath_prepend(str(tmp_path))
    plain, last = (
        list(machine.model(a_config(task__entry="viewing:Viewing", task__memory_format=order), tmp_path))
        for order in ("contiguous", "channels_last")
    )
    assert levels(plain) == {"model": "ok", "memory": "ok", "disk": "ok"}
    assert plain[0].text.startswith("viewing:Viewing: 802 parameters, ") and plain[0].text.endswith(" ms a step")
    assert last[0].text.startswith("viewing:Viewing cannot be trained: view size is not compatible")
    assert last[0].level is Level.PROBLEM and "Use .reshape(...) instead" in last[0].text


@pytest.mark.slow
def test_step_is_one_of_several_in_a_round(tmp_path: Path) -> None:
    one, many = (a_config(run__threads=1, run__device="cpu", task__local_steps=steps) for steps in (1, 100))
    (_, of_one), (_, of_many) = (machine._size_and_step_s(c, TaskWorkload(c, "node-0")) for c in (one, many))
    assert of_many < 10 * of_one


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"task__model": "smal-cnn"}, "smal-cnn"),
        ({"task__dataset": "imagefolder", "task__data_dir": "/nowhere"}, "/nowhere"),
        ({"topology__graphs": "chrod"}, "did you mean 'chord'"),
    ],
)
def test_impossible_run_is_a_problem_of_run_toml(settings: dict[str, object], text: str, tmp_path: Path) -> None:
    (found,) = machine.model(a_config(run__threads=1, **settings), tmp_path)
    assert (found.check, found.level) == ("run.toml", Level.PROBLEM)
    assert text in found.text


def test_memory_is_compared_with_free_memory() -> None:
    assert machine.memory(1000).level is Level.OK
    assert machine.memory(10**13).level is Level.PROBLEM
    free = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    nearly_all = int(0.9 * free - (peak_memory_bytes() or 0)) // 24
    assert machine.memory(nearly_all).level is Level.WARNING


def test_disk_is_compared_with_free_space_of_the_folder(tmp_path: Path) -> None:
    assert machine.disk(1000, tmp_path / "not" / "yet").level is Level.OK
    assert machine.disk(10**15, tmp_path).level is Level.PROBLEM
    (tmp_path / "file").touch()
    found = machine.disk(1000, tmp_path / "file" / "state")
    assert (found.level, found.text) == (Level.PROBLEM, f"{tmp_path / 'file' / 'state'} cannot be written")


def test_missing_power_sensor_is_not_a_problem() -> None:
    assert machine.power().level is Level.OK


def test_finding_is_one_line_with_its_remedy() -> None:
    assert str(Finding("disk", Level.PROBLEM, "is full", "make room")) == "is full: make room"
    assert str(Finding("disk", Level.OK, "is empty")) == "is empty"


# --- liars


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        ({}, "", ""),
        ({"run__on_poison": "evict"}, "warning", "on graph a a node has one in-neighbour: nothing protects it"),
        ({"algorithm__liars": 1}, "warning", "on graph a a node has one in-neighbour: nothing protects it"),
        ({"run__on_poison": "evict", "topology__graphs": "complete"}, "", ""),
        (
            {"algorithm__liars": 2, "topology__graphs": "complete"},
            "warning",
            "on graph complete a node has 3 in-neighbours, but algorithm.liars = 2 takes 5",
        ),
        ({"algorithm__liars": 1, "topology__graphs": "complete"}, "ok", "3 in-neighbours or more, and tolerates 1"),
        ({"algorithm__liars": 1, "topology__graphs": "complete,two-way"}, "warning", "on graph two-way a node has 2"),
    ],
)
def test_graph_with_too_few_in_neighbours_is_named(settings: dict[str, object], level: str, text: str) -> None:
    found = list(machine.liars(a_config(run__nodes=4, **settings)))
    assert levels(found) == ({"liars": level} if level else {})
    assert not found or text in found[0].text
