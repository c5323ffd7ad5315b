"""Folders of photos as the own data of simulated nodes, and what cannot be simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgenode.config.load import load
from edgenode.errors import ConfigError
from edgenode.inference.live_model import LiveModel
from edgenode.simulate.simulation import Simulation


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: tmp_path / "cache")


def photos(folder: Path, **counts: int) -> None:
    """Photos of different shapes, so many of each class."""
    random = np.random.RandomState(len(counts))
    for name, count in counts.items():
        (folder / "train" / name).mkdir(parents=True)
        for number in range(count):
            shape = (12 + number % 3, 16, 3)
            Image.fromarray(random.randint(0, 256, shape, np.uint8)).save(folder / "train" / name / f"{number}.png")


def simulation(data_dir: str, out: Path | None = None, **settings: object) -> Simulation:
    keys = {
        "run.nodes": 2, "run.rounds": 3, "run.threads": 1, "task.dataset": "imagefolder", "task.data_dir": data_dir,
        "task.image_size": 8, "task.batch_size": 4,
    }  # fmt: skip
    given = {key.replace("__", "."): value for key, value in settings.items()}
    return Simulation(load(None, {**keys, **given}, {}), out)


def test_each_node_trains_on_all_of_its_own_photos(tmp_path: Path) -> None:
    photos(tmp_path / "node-0", cat=9, dog=7)
    photos(tmp_path / "node-1", dog=4)
    run = simulation(f"{tmp_path}/{{node}}", task__classes=("cat", "dog"))
    assert [replica.trainer.samples for replica in run._replicas.values()] == [16, 4]
    assert run.epoch_rounds == 3  # the mean node has 10 photos, in batches of 4
    result = run.run()
    assert [node["test_accuracy"] for node in result["nodes"]] == [None, None]  # there is no test/


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "cats"), [("equal", (0.75 + 0.2) / 2), ("samples", (300 + 20) / 500)])
def test_photos_count_as_the_objective_says(objective: str, cats: float, tmp_path: Path) -> None:
    """All photos are equal, so the best model of 400 photos and 100 gives each class its weighted frequency."""
    for node, counts in {"node-0": {"cat": 300, "dog": 100}, "node-1": {"cat": 20, "dog": 80}}.items():
        for name, count in counts.items():
            folder = tmp_path / node / "train" / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), "white").save(folder / f"{number}.png")
    run = simulation(
        f"{tmp_path}/{{node}}", tmp_path / "out", task__classes=("cat", "dog"), task__objective=objective,
        task__batch_size=400, run__rounds=60, algorithm__name="sgp", task__weight_decay=0.0,
    )  # fmt: skip
    assert [replica.trainer.samples for replica in run._replicas.values()] == [400, 100]
    run.run()
    live = LiveModel(tmp_path / "out" / "node-1")
    with torch.inference_mode():
        share = live.model(torch.full((1, 3, 8, 8), 255.0)).softmax(1)[0, 0].item()
    assert share == pytest.approx(cats, abs=0.01)


def test_nodes_with_other_classes_are_refused_with_both(tmp_path: Path) -> None:
    photos(tmp_path / "node-0", cat=2, dog=2)
    photos(tmp_path / "node-1", cow=2, dog=2)
    with pytest.raises(ConfigError, match=r'name all of them in task.classes\) is "cow, dog", not "cat, dog"'):
        simulation(f"{tmp_path}/{{node}}")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "every simulated node would train on all of it; write {node} where its name belongs"),
        ({"task__local_steps": "auto"}, "it follows measured times, which a simulation does not have; set a number"),
    ],
)
def test_what_cannot_be_simulated_is_refused(settings: dict[str, object], text: str, tmp_path: Path) -> None:
    photos(tmp_path, cat=2, dog=2)
    with pytest.raises(ConfigError) as caught:
        simulation(str(tmp_path), **settings)
    assert text in str(caught.value)
    cut = simulation(str(tmp_path), task__data="cut")
    assert [replica.trainer.samples for replica in cut._replicas.values()] == [2, 2]
