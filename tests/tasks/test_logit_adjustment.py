"""The balanced loss: in training, each node's logits are shifted by the log of its own class frequencies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenode.errors import ConfigError
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.logit_adjustment import log_prior
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength, Task
from edgenode.tasks.trainer import TaskTrainer
from tests.tasks.small_trainer import digits_trainer, run
from tests.tasks.test_growth import folder, photo, trainer_of  # noqa: F401  # a fixture

BALANCED = TrainSettings(batch_size=16, learning_rate=0.05, loss="balanced")


def skewed() -> Tensor:
    """Nearly all zeros and ones of the digits, and no nine."""
    labels = ImageTask("digits").train_data(NodeInfo("n")).targets
    return torch.cat([(labels < 2).nonzero().ravel(), ((labels > 1) & (labels < 9)).nonzero().ravel()[:40]])


def trainer(loss: str = "balanced") -> TaskTrainer:
    settings = TrainSettings(batch_size=16, learning_rate=0.05, loss=loss)
    return digits_trainer(skewed(), ImageTask("digits", norm="group"), settings)


def test_log_prior_counts_one_sample_more_of_each_class() -> None:
    found = log_prior(torch.tensor([0, 0, 2, 2, 2]), 4)
    assert found.dtype == torch.float32
    assert torch.allclose(found.exp(), torch.tensor([3, 1, 4, 1]) / 9)


def test_class_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="a sample has class 4, but the model knows the classes 0 to 3"):
        log_prior(torch.tensor([0, 4]), 4)


def test_training_loss_is_that_of_shifted_logits() -> None:
    node = trainer()
    z, task = node.initial(), node._task
    labels = task.train_data(NodeInfo("n")).targets[skewed()]
    node._load(z)
    images, targets = task.prepared(node.batches.batch(0))
    expected = functional.cross_entropy(node._flat.model(images) + log_prior(labels, 10), targets)
    assert node.train(0, z).loss == pytest.approx(float(expected.detach()), rel=1e-6)


def test_evaluation_has_no_shift() -> None:
    balanced, plain = trainer(), trainer("cross_entropy")
    z = run(balanced, balanced.initial(), range(30))
    assert balanced.evaluate(z) == plain.evaluate(z)


def test_balanced_training_knows_rare_classes_better() -> None:
    accuracy = {}
    for loss in ("balanced", "cross_entropy"):
        node = trainer(loss)
        accuracy[loss] = node.evaluate(run(node, node.initial(), range(100))).accuracy
    assert accuracy["balanced"] > accuracy["cross_entropy"] + 0.02


def test_resumed_training_has_the_same_bits() -> None:
    whole, first, second = trainer(), trainer(), trainer()
    z = run(first, first.initial(), range(7))
    second.load_local_state(first.local_state())
    assert np.array_equal(run(second, z, range(7, 12)), run(whole, whole.initial(), range(12)))


def test_shift_follows_data_that_grows(folder: Path) -> None:  # noqa: F811
    node = trainer_of(folder, loss="balanced")
    z = run(node, node.initial(), range(2))
    logits = torch.zeros(1, 2)
    assert torch.equal(node._adjustment._shifted(logits)[0], log_prior(torch.tensor([0] * 6 + [1] * 6), 2))
    for number in range(10, 14):
        photo(folder / "train" / "dog" / f"{number}.png")
    run(node, z, range(2, 5))
    assert torch.equal(node._adjustment._shifted(logits)[0], log_prior(torch.tensor([0] * 6 + [1] * 10), 2))


# tasks of one's own ------------------------------------------------------------------------------------


class Vectors(Task):
    """Two classes of vectors, and a model and a loss of one's own."""

    def __init__(self, model: nn.Module, targets: object = (0, 0, 0, 1)) -> None:
        self._model, self._targets = model, targets

    def model(self) -> nn.Module:
        return self._model

    def train_data(self, node: NodeInfo) -> object:  # type: ignore[override]
        data = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([0, 0, 0, 1]))
        data.targets = self._targets
        return data

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return functional.nll_loss(torch.log_softmax(model(inputs), dim=1), targets)


def own_trainer(task: Vectors) -> TaskTrainer:
    data = LocalData.whole(task.train_data(NodeInfo("n")))
    return TaskTrainer(task, data, BALANCED, RunLength(10, 1), seed=0)


def test_own_loss_sees_shifted_logits() -> None:
    node = own_trainer(Vectors(nn.Linear(4, 2)))
    prior = log_prior(torch.tensor([0, 0, 0, 1]), 2)
    expected = -(3 * prior[0] + prior[1]) / 4
    assert node.train(0, np.zeros(10, np.float32)).loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("model", [nn.Unflatten(1, (2, 2)), nn.LSTM(4, 2)])
def test_model_without_logits_is_refused(model: nn.Module) -> None:
    node = own_trainer(Vectors(nn.Sequential(nn.Linear(4, 4), model)))
    with pytest.raises(ConfigError, match=r"returns logits \[batch, classes\], not"):
        node.train(0, node.initial())


@pytest.mark.parametrize("targets", [None, [0.5, 1.0, 0.0, 0.0], [0, 1]])
def test_data_without_classes_is_refused(targets: object) -> None:
    with pytest.raises(ConfigError, match="the training data has no attribute targets"):
        own_trainer(Vectors(nn.Linear(4, 2), targets))
