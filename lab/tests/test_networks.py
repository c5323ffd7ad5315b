"""The paper's networks and LeNet-5: their sizes, images that do not fit, and rates at which they train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from edgenode.errors import ConfigError
from edgenode.tasks import datasets, models
from edgenode.tasks.settings import TrainSettings
from tests.tasks.small_trainer import Digits, digits_trainer, local_update


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "channels", "size", "count"),
    [
        ("lenet5", 1, 28, 61_706),
        ("lenet5", 3, 32, 62_006),
        ("resnet110", 3, 32, 1_727_962),
        ("vgg11", 3, 32, 9_488_266),
    ],
)
def test_parameter_counts(name: str, channels: int, size: int, count: int) -> None:
    assert parameters(models.build(name, 10, channels, size)) == count


def test_vgg11_is_the_papers_37_95_megabytes() -> None:
    assert round(parameters(models.build("vgg11", 10, 3, 32)) * 4 / 1e6, 2) == 37.95


@pytest.mark.parametrize("name", ["lenet5", "vgg11"])
def test_unfit_image_size_fails_when_built(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model '{name}' cannot take images of 3x8x8: "):
        models.build(name, 10, 3, 8)


@pytest.mark.slow
def test_vgg11_does_not_diverge_at_the_papers_rate() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 10, (32,), generator=random)
    noise = datasets.Dataset(images, labels, images, labels, 10, (127.5,) * 3, (73.6,) * 3)
    chosen = TrainSettings(batch_size=8, learning_rate=0.05, weight_decay=5e-4)
    task = Digits(lambda: models.build("vgg11", 10, 3, 32))
    task._load = lambda node: noise
    task._dataset = noise
    trainer = digits_trainer(torch.arange(32), task, chosen)
    z = trainer.initial()
    for t in range(6):
        step = trainer.train(t, z.copy())
        z = z + local_update(step, z)
        assert step.loss < 5
