"""Folders of photos as the own data of simulated nodes, and what cannot be simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenode.config.load import load
from edgenode.errors import ConfigError
from edgenode.simulate.runner import Simulation


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


def simulation(data_dir: str, **settings: object) -> Simulation:
    keys = {
        "run.nodes": 2, "run.rounds": 3, "run.threads": 1, "task.dataset": "imagefolder", "task.data_dir": data_dir,
        "task.image_size": 8, "task.batch_size": 4,
    }  # fmt: skip
    return Simulation(load(None, {**keys, **{key.replace("__", "."): value for key, value in settings.items()}}, {}))


def test_each_node_trains_on_all_of_its_own_photos(tmp_path: Path) -> None:
    photos(tmp_path / "node-0", cat=9, dog=7)
    photos(tmp_path / "node-1", dog=4)
    run = simulation(f"{tmp_path}/{{node}}", task__classes=("cat", "dog"))
    assert [replica.trainer.samples for replica in run._replicas.values()] == [16, 4]
    assert run.epoch_rounds == 3  # the mean node has 10 photos, in batches of 4
    result = run.run()
    assert [node["test_accuracy"] for node in result["nodes"]] == [None, None]  # there is no test/


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
