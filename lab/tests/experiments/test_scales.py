"""The paper's schedule at each scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenode.errors import ConfigError
from edgenode_lab.experiments.scales import (
    RESNET20,
    RESNET110,
    RESNET110_CIFAR100,
    VGG11,
    choose_scale,
    scaled_milestones,
)

_VGG = range(30, 200, 30)


@pytest.mark.parametrize(
    ("milestones", "epochs", "places"),
    [
        ((100, 150), 200, [100, 150]),
        (_VGG, 200, [30, 60, 90, 120, 150, 180]),
        ((100, 150), 20, [10, 15]),
        ((100, 150), 4, [2, 3]),
        (_VGG, 20, [3, 6, 9, 12, 15, 18]),
        (_VGG, 4, [1, 2, 3]),  # no duplicates
        ((100, 150), 1, []),
    ],
)
def test_milestones_shrink_with_the_epochs(milestones: tuple[int, ...], epochs: int, places: list[int]) -> None:
    assert scaled_milestones(milestones, epochs) == places


def test_paper_scale_is_that_of_section_8_2(tmp_path: Path) -> None:
    """ "an initial learning rate of 0.1 and reduced the learning rate by a factor of 10 after epoch numbers 100 and
    150. For VGG11 network, we used an initial learning of 0.05 and reduced it by a factor of 2 after every 30 epochs."
    """
    paper = choose_scale("paper", tmp_path)
    assert paper.rounds(RESNET20) == paper.rounds(VGG11) == 78_200  # section 5: 200 epochs of 391 iterations
    resnet, vgg = paper.networks[RESNET20], paper.networks[VGG11]
    assert [resnet[f"task.{k}"] for k in ("learning_rate", "decay", "milestones")] == [0.1, 0.1, [100, 150]]
    assert [vgg[f"task.{k}"] for k in ("learning_rate", "decay", "weight_decay")] == [0.05, 0.5, 5e-4]
    assert vgg["task.milestones"] == [30, 60, 90, 120, 150, 180]
    assert {RESNET110, RESNET110_CIFAR100} <= paper.networks.keys()


def test_epochs_and_milestones_shrink_together(tmp_path: Path) -> None:
    short = choose_scale("small", tmp_path, epochs=20)
    assert short.rounds(RESNET20) == 20 * 391
    assert short.networks[RESNET20]["task.milestones"] == [10, 15]
    assert RESNET110 not in short.networks


def test_image_folder_is_recognised_and_lacks_cifar_100(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    networks = choose_scale("paper", tmp_path).networks
    assert networks[RESNET20]["task.dataset"] == "imagefolder"
    assert RESNET110_CIFAR100 not in networks


def test_scale_refuses_missing_data_and_unused_epochs() -> None:
    with pytest.raises(ConfigError, match="--data-dir"):
        choose_scale("small")
    with pytest.raises(ConfigError, match="--epochs is for"):
        choose_scale("smoke", epochs=3)
