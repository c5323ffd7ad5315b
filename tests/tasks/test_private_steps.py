"""DP-SGD in a trainer: the gradients of samples against plain autograd, the noise, and the end of a budget."""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from edgenode.errors import CheckpointError, ConfigError
from edgenode.evaluation import Metric
from edgenode.storage.privacy_ledger import FileLedger
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.noisy_steps import Privacy, coarse
from edgenode.tasks.os_random import OsRandom
from edgenode.tasks.packing import Arrays
from edgenode.tasks.privacy_budget import Ledger, MemoryLedger, Spending, epsilon_of
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength, Samples, Task
from edgenode.tasks.trainer import TaskTrainer
from tests.simulation.fake_disk import PowerCut, SimulatedDisk

FEATURES, CLASSES, SAMPLES = 6, 3, 40


class Blobs(Task):
    """Three classes around three points, and a model of two layers."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))

    def train_data(self, node: NodeInfo) -> Samples:
        random = np.random.default_rng(0)
        labels = np.arange(SAMPLES) % CLASSES
        inputs = random.normal(size=(SAMPLES, FEATURES)) + 3 * np.eye(CLASSES, FEATURES)[labels]
        return TensorDataset(torch.from_numpy(inputs).float(), torch.from_numpy(labels))

    def test_data(self, node: NodeInfo) -> Samples:
        return self.train_data(node)


class TiedWeights(Blobs):
    def model(self) -> nn.Module:
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = nn.Linear(FEATURES, CLASSES, bias=False)

            def forward(self, inputs: Tensor) -> Tensor:
                return self.first(functional.linear(self.first(inputs), self.first.weight.t()))  # type: ignore[no-any-return]

        return Tied()


class Batched(Blobs):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))


class Untested(Blobs):
    def test_data(self, node: NodeInfo) -> Samples | None:
        return None


def privacy(
    epsilon: float | None = None,
    noise: float | None = 1.0,
    clip_norm: float = 1.0,
    reproducible: bool = False,
    ledger: Ledger | None = None,
) -> Privacy:
    return Privacy(epsilon, 1e-5, noise, clip_norm, reproducible, ledger)


def trainer(
    of: Privacy, task: Task | None = None, batch_size: int = SAMPLES, rounds: int = 20, accumulate: int = 1
) -> TaskTrainer:
    task = task or Blobs()
    data = LocalData.whole(task.train_data(NodeInfo("n")), task.test_data(NodeInfo("n")))
    chosen = TrainSettings(
        batch_size=batch_size, accumulate=accumulate, learning_rate=1.0, momentum=0.0, weight_decay=0.0
    )
    return TaskTrainer(task, data, chosen, RunLength(rounds, 5), seed=3, privacy=of)


def change(of: TaskTrainer, t: int = 0) -> np.ndarray:
    start = of.initial()
    return of.train(t, start.copy()).vector - start


@pytest.mark.parametrize("accumulate", [1, 5])
def test_step_is_the_mean_of_clipped_gradients(accumulate: int) -> None:
    """Every sample is in the step, and the noise is as good as none."""
    task = Blobs()
    private = trainer(privacy(noise=1e-9, clip_norm=0.3), task, SAMPLES // accumulate, accumulate=accumulate)
    model, total = task.model(), 0.0
    torch.nn.utils.vector_to_parameters(torch.from_numpy(private.initial()), model.parameters())
    inputs, labels = task.train_data(NodeInfo("n")).tensors  # type: ignore[attr-defined]
    for index in range(SAMPLES):
        loss = task.loss(model, (inputs[index : index + 1], labels[index : index + 1]))
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        total = total + gradient * min(1.0, 0.3 / float(gradient.norm()))
    assert change(private) == pytest.approx(-(total / SAMPLES).numpy(), abs=1e-6)  # type: ignore[union-attr]


def test_noise_has_the_size_that_is_asked_for() -> None:
    """The gradients of 40 samples are at most 1e-6 long, so what changes is noise."""
    found = np.concatenate([change(trainer(privacy(noise=2e6, clip_norm=1e-6))) for _ in range(20)])
    assert found.std() == pytest.approx(2e6 * 1e-6 / SAMPLES, rel=0.1)


def test_samples_of_a_step_are_drawn_anew_each_time() -> None:
    """With 5 of 40 in the mean, two trainers with one seed take different ones, and some steps have none."""
    private = [trainer(privacy(), batch_size=5)._private for _ in range(2)]
    chosen = [[tuple(of.begin_step(t).tolist()) for t in range(60)] for of in private if of]  # type: ignore[union-attr]
    assert chosen[0] != chosen[1]
    assert np.mean([len(step) for step in chosen[0]]) == pytest.approx(5, abs=1.5)
    assert len({len(step) for step in chosen[0]}) > 3


def test_step_without_a_sample_still_has_noise() -> None:
    steps = trainer(privacy())._private
    assert steps is not None
    steps.differentiate(torch.tensor([], dtype=torch.int64), lambda _: pytest.fail("there is no sample"))
    assert bool((steps._flat.gradients != 0).all())


def test_two_runs_with_one_seed_differ_unless_they_are_to_be_equal() -> None:
    assert not np.array_equal(change(trainer(privacy())), change(trainer(privacy())))
    again = [change(trainer(privacy(reproducible=True)), t=4) for _ in range(2)]
    assert np.array_equal(*again)


def test_node_trains_no_more_once_its_budget_is_spent() -> None:
    private = trainer(privacy(epsilon=1.0, noise=None), rounds=4)
    z = private.initial()
    for t in range(4):
        before = z.copy()
        z = private.train(t, z.copy()).vector.copy()
        assert not np.array_equal(z, before)
    for t in range(4, 8):
        after = private.train(t, z.copy())
        assert np.array_equal(after.vector, z)
        assert after.loss is None
    assert 0.95 < dict_of(private.evaluate(z).metrics)["epsilon"] <= 1.0


def dict_of(metrics: tuple[Metric, ...]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}


def test_checkpoint_counts_what_was_taken_and_no_more() -> None:
    ledger = MemoryLedger()
    private = trainer(privacy(ledger=ledger), rounds=500)
    z = private.initial()
    for t in range(3):
        private.train(t, z.copy())
    assert ledger.read()[0].steps > 3  # ahead
    state = private.local_state()
    assert ledger.read() == (Spending(1.0, 1.0, 3),)
    resumed = trainer(privacy(), rounds=500)  # its ledger is lost
    resumed.load_local_state(state)
    assert resumed._private is not None
    assert resumed._private.budget.spent() == (Spending(1.0, 1.0, 3),)


@pytest.mark.parametrize("rows", [np.ones(3), np.ones((1, 2)), np.array([[1, 1, -1]]), np.array([[np.nan, 1, 1]])])
def test_damaged_count_is_refused(rows: np.ndarray) -> None:
    private = trainer(privacy())
    state = {**private.local_state(), "privacy.spent": rows}
    with pytest.raises(CheckpointError, match=r"'privacy.spent' cannot be restored"):
        private.load_local_state(state)


def test_step_that_cannot_be_counted_is_left_out() -> None:
    class Full(MemoryLedger):
        def write(self, spent: tuple[Spending, ...]) -> None:
            raise CheckpointError("cannot write privacy.json: No space left on device")

    assert not change(trainer(privacy(ledger=Full()))).any()


STATE_DIR = Path("/var/edgenode/n0")
LIMIT = 12.0


class Node:
    """A private node on one disk: what it has drawn noise for, and all its checkpoints."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.disk, self.saved = rng, SimulatedDisk(), list[Arrays]()
        self.disk.make_folder(STATE_DIR)

    @property
    def ledger(self) -> FileLedger:
        return FileLedger(STATE_DIR, self.disk)

    def live(self) -> None:
        """A process resumes from any checkpoint, or begins anew, and trains and saves until it ends."""
        size = self.rng.choice([4, SAMPLES])  # a run with other settings spends of the same budget
        private = trainer(privacy(epsilon=LIMIT, ledger=self.ledger), batch_size=size, rounds=40)
        if self.saved and self.rng.random() < 0.7:
            private.load_local_state(self.rng.choice(self.saved))
        z = private.initial()
        for t in range(self.rng.randint(1, 12)):
            private.train(t, z)
            if self.rng.random() < 0.2:
                self.saved.append(private.local_state())

    def end(self) -> None:
        """The power was cut, or the process killed. The next one may run on a copy of the state folder."""
        if self.rng.random() < 0.6:
            self.disk.crash(self.rng)
        self.disk.fail_after(None)
        if self.rng.random() < 0.3:
            self.disk = copy.deepcopy(self.disk)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 20, 40])
def test_no_noise_is_drawn_that_is_not_counted(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds of crashes at any operation of the disk, resumes, rollbacks, full disks and copies of the state folder."""
    drawn, cuts, left_out = 0, 0, 0
    normal = OsRandom.normal

    def draw(self: OsRandom, size: int) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        return normal(self, size)

    monkeypatch.setattr(OsRandom, "normal", draw)
    for seed in range(first, first + 20):
        node, drawn = Node(random.Random(seed)), 0
        for _ in range(8):
            node.disk.fail_after(node.rng.randint(0, 25))
            node.disk.capacity = 0 if node.rng.random() < 0.1 else None
            before = drawn
            try:
                node.live()
            except PowerCut:
                cuts += 1
            left_out += node.disk.capacity == 0 and drawn == before
            node.end()
            spent = node.ledger.read()
            assert sum(part.steps for part in spent) >= drawn, f"seed {seed}"
            assert epsilon_of(spent, 1e-5) <= LIMIT
    assert cuts > 20 and left_out


def test_node_without_a_test_tells_nothing_of_its_samples() -> None:
    private = trainer(privacy(), Untested())
    assert private.loss(private.initial()) is None
    assert private.samples == coarse(SAMPLES) == 32


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (TiedWeights(), "first.weight: the model uses it outside of its layer"),
        (
            Batched(),
            "BatchNorm cannot support training with differential privacy.*and nn.GroupNorm have none",
        ),
    ],
)
def test_model_that_opacus_cannot_follow_is_refused(task: Task, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        change(trainer(privacy(), task))


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgenode\[privacy\]'"):
        trainer(privacy())


def test_earlier_runs_on_the_same_data_count() -> None:
    ledger = MemoryLedger()
    ledger.write((Spending(0.5, 1.0, 50),))
    assert not change(trainer(privacy(epsilon=1.0, noise=None, ledger=ledger))).any()


@pytest.mark.slow
def test_private_node_learns_the_digits() -> None:
    task = ImageTask(norm="group")
    data = LocalData.whole(task.train_data(NodeInfo("n")), task.test_data(NodeInfo("n")))
    chosen = TrainSettings(batch_size=128, learning_rate=0.5, weight_decay=0.0)
    private = TaskTrainer(task, data, chosen, RunLength(60, 10), seed=0, privacy=privacy(epsilon=8.0, noise=None))
    z = private.initial()
    for t in range(60):
        z = private.train(t, z).vector.copy()
    measured = dict_of(private.evaluate(z).metrics)
    assert measured["accuracy"] > 0.8
    assert 7.9 < measured["epsilon"] <= 8
