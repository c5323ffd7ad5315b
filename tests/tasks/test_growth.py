"""An imagefolder that grows while a node trains on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation
from edgenode.tasks.flat_params import Vector
from edgenode.tasks.folder_samples import FolderSamples
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.imagefolder import Listing
from edgenode.tasks.local_data import Cut, DataSource
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength
from edgenode.tasks.trainer import TaskTrainer
from tests.tasks.small_trainer import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six photos of each of two classes, and a test set of one of each. The cache is one of the test's own."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _name: tmp_path / "cache")
    for label in ("cat", "dog"):
        for number in range(6):
            photo(tmp_path / "photos" / "train" / label / f"{number}.png")
        photo(tmp_path / "photos" / "test" / label / "0.png")
    return tmp_path / "photos"


def photo(path: Path, mode: str = "RGB", size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(f"{path.parent.name}/{path.name}".encode()))
    pixels = random.integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def trainer_of(folder: Path, cut: Cut | None = None, **settings: object) -> TaskTrainer:
    task = ImageTask("imagefolder", norm="group", common_moments=True)
    node = NodeInfo("n0", folder)
    data = DataSource(task, cut).local(node, 0, 1)
    chosen = TrainSettings(**{"batch_size": 4, "learning_rate": 0.05, **settings})
    return TaskTrainer(task, data, chosen, RunLength(100, 3), seed=0)


def used(trainer: TaskTrainer, number: int) -> list[str]:
    """The samples of a batch, by name."""
    data = trainer._data.train
    names = {place: name for name, place in data._place.items()}
    return [names[index] for index in trainer.batches.indices(number).tolist()]


def test_new_photos_are_used_from_the_next_pass_on(folder: Path) -> None:
    trainer = trainer_of(folder)
    z = trainer.initial()
    assert trainer.batches.per_pass == 3
    z = run(trainer, z, range(0, 2))
    photo(folder / "train" / "dog" / "new.png")
    z = run(trainer, z, range(2, 3))
    assert len(trainer.batches) == 12
    z = run(trainer, z, range(3, 4))
    assert len(trainer.batches) == 13
    assert trainer.batches.per_pass == 4
    names = [name for number in range(3, 7) for name in used(trainer, number)]
    assert len(names) == len(set(names)) == 13
    assert "dog/new.png" in names
    assert trainer.batches.begins_pass(7)
    assert trainer.samples == 12  # what the node counts for does not change


def test_folder_that_does_not_change_trains_as_ever(folder: Path) -> None:
    growing, again = trainer_of(folder), trainer_of(folder)
    again._growth.begin_batch = lambda number: None
    assert np.array_equal(run(growing, growing.initial(), range(7)), run(again, again.initial(), range(7)))
    assert growing.batches.began == (0, 0)


Changes = dict[int, Callable[[Path], None]]


def train_with(changes: Changes, trainer: TaskTrainer, folder: Path, z: Vector, rounds: range) -> Vector:
    """Train, and change the folder before some rounds."""
    for t in rounds:
        changes.get(t, lambda _: None)(folder)
        z = run(trainer, z, range(t, t + 1))
    return z


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 8])
def test_resumed_run_replays_the_pass_it_was_in(folder: Path, tmp_path: Path, stop: int) -> None:
    changes: Changes = {
        1: lambda where: photo(where / "train" / "cat" / "11.png"),  # used from round 3 on
        5: lambda where: photo(where / "train" / "cat" / "00.png"),  # from round 7 on
    }
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    whole = trainer_of(folder)
    z = train_with(changes, whole, folder, whole.initial(), range(12))
    first = trainer_of(other)
    at_stop = train_with(changes, first, other, first.initial(), range(stop))
    state = first.local_state()
    changes.get(stop, lambda _: None)(other)  # while the node is down
    resumed = trainer_of(other)
    resumed.load_local_state(state)
    assert np.array_equal(train_with({5: changes[5]} if stop < 5 else {}, resumed, other, at_stop, range(stop, 12)), z)
    assert len(resumed.batches) == len(whole.batches) == 14
    assert resumed.evaluate(z) == whole.evaluate(z)


def test_photos_removed_meanwhile_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = trainer_of(folder)
    z = run(first, first.initial(), range(1))
    state = first.local_state()
    (folder / "train" / "dog" / "5.png").unlink()
    z = run(first, z, range(1, 4))  # this process still has it, until the pass ends
    assert len(first.batches) == 11
    resumed = trainer_of(folder)
    resumed.load_local_state(state)
    assert len(resumed.batches) == 11
    assert "samples of the checkpoint are gone" in capsys.readouterr().out
    assert np.isfinite(run(resumed, z, range(1, 8))).all()


def test_removal_of_everything_keeps_the_photos_in_memory(folder: Path) -> None:
    trainer = trainer_of(folder)
    z = run(trainer, trainer.initial(), range(1))
    shutil.rmtree(folder / "train")
    run(trainer, z, range(1, 7))
    assert len(trainer.batches) == 12


def test_test_set_grows_with_the_pass(folder: Path) -> None:
    trainer = trainer_of(folder)
    z = run(trainer, trainer.initial(), range(1))
    for number in range(1, 6):
        photo(folder / "test" / "cat" / f"{number}.png")
    before = trainer.evaluate(z).accuracy
    assert before in (0, 0.5, 1)
    z = run(trainer, z, range(1, 4))
    assert trainer._growth.tested is not None
    assert len(trainer._growth.tested) == 7
    after = trainer.evaluate(z).accuracy
    assert after is not None
    assert (after * 7) % 1 == pytest.approx(0, abs=1e-6)


def test_photo_that_is_being_copied_is_used_when_it_is_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, path = trainer_of(folder), folder / "train" / "cat" / "slow.png"
    z = trainer.initial()
    photo(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    z = run(trainer, z, range(7))
    assert len(trainer.batches) == 12
    assert capsys.readouterr().out.count("skipping an image until it can be used") == 1
    path.write_bytes(content)
    run(trainer, z, range(7, 10))
    assert len(trainer.batches) == 13


def test_photos_that_do_not_fit_are_skipped(folder: Path) -> None:
    trainer = trainer_of(folder)
    photo(folder / "train" / "cat" / "large.png", size=9)
    photo(folder / "train" / "owl" / "0.png")  # the classes stay the same
    (folder / "train" / "cat" / "notes.txt").write_text("")
    run(trainer, trainer.initial(), range(4))
    assert len(trainer.batches) == 12


def test_new_photos_get_the_form_of_the_first(tmp_path: Path, folder: Path) -> None:
    for label in ("cat", "dog"):
        photo(tmp_path / "grey" / label / "0.png", "L")
    listing = Listing(tmp_path / "grey", ("cat", "dog")).renewed()
    samples = FolderSamples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), listing, 8)
    photo(tmp_path / "grey" / "cat" / "photo.png", "RGB", size=50)
    assert samples.listed() == ["cat/0.png", "cat/photo.png", "dog/0.png"]
    assert samples.places(["cat/photo.png", "absent"]).tolist() == [2]
    images, targets = samples.__getitems__([2, 0])
    assert (images.shape, images.dtype, targets.tolist()) == ((2, 1, 8, 8), torch.uint8, [0, 0])
    assert images[0].float().mean() > 50
    assert samples[2][0].shape == (1, 8, 8)


def test_shared_data_does_not_grow(folder: Path) -> None:
    trainer = trainer_of(folder, Cut())
    photo(folder / "train" / "dog" / "new.png")
    run(trainer, trainer.initial(), range(7))
    assert len(trainer.batches) == 12
    assert not any(name.startswith("growth") for name in trainer.local_state())


@pytest.mark.slow
def test_simulation_with_growing_data_resumes_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "own" / "node-0")
    settings = {
        "run.nodes": 1, "run.rounds": 9, "run.checkpoint_every": 4, "task.dataset": "imagefolder",
        "task.data_dir": str(tmp_path / "own" / "{node}"), "task.batch_size": 4, "algorithm.name": "sp",
        "task.objective": "samples",
    }  # fmt: skip

    def simulate(out: Path, stop: int) -> dict[str, Any]:
        new = tmp_path / "own" / "node-0" / "train" / "cat" / "new.png"
        new.unlink(missing_ok=True)
        simulation = Simulation(load(None, settings, environ={}), out)

        def after_round() -> None:
            if simulation.round == 4:
                photo(new)
            if simulation.round == stop:
                raise KeyboardInterrupt

        return simulation.run(after_round)

    simulate(tmp_path / "whole", 99)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "parts", 5)
    Simulation(load(None, settings, environ={}), tmp_path / "parts").run()
    whole, parts = (load_file(tmp_path / out / "node-0" / "model.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
