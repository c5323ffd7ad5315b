"""How the paper's networks are trained at each scale: smoke (minutes), small (an hour or two), paper (as printed).

A scale maps the paper's name of a network to keys of run.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from edgenode.errors import ConfigError

NODES = 4
BATCH = 32
PAPER_EPOCHS = 200
PAPER_ROUNDS = PAPER_EPOCHS * 391
"""Section 8.2: 200 epochs of a batch of 32 per node, on 4 nodes: 391 rounds each, 78,200 in all."""

RESNET20, RESNET20_GROUP, VGG11 = "ResNet-20", "ResNet-20 with GroupNorm", "VGG-11"
RESNET110, RESNET110_CIFAR100 = "ResNet-110", "ResNet-110, CIFAR-100"
NETWORKS = (RESNET20, RESNET20_GROUP, VGG11, RESNET110, RESNET110_CIFAR100)

ScaleName = Literal["smoke", "small", "paper"]
Settings = Mapping[str, object]

_CIFAR_SAMPLES = 50_000
_RESNET: Settings = MappingProxyType({"task.learning_rate": 0.1, "task.weight_decay": 1e-4, "task.decay": 0.1})
_VGG: Settings = MappingProxyType({"task.learning_rate": 0.05, "task.weight_decay": 5e-4, "task.decay": 0.5})
_RESNET_MILESTONES, _VGG_MILESTONES = (100, 150), tuple(range(30, PAPER_EPOCHS, 30))


@dataclass(frozen=True)
class Scale:
    """``networks`` maps the paper's names to keys of run.toml, without the networks too large for this scale."""

    name: ScaleName
    networks: Mapping[str, Settings]

    def rounds(self, network: str) -> int:
        """Training rounds of a network, on 4 nodes.

        Raises:
            KeyError: the network is too large for this scale.
        """
        rounds = self.networks[network]["run.rounds"]
        assert isinstance(rounds, int)
        return rounds


def choose_scale(name: ScaleName, data_dir: Path | None = None, epochs: int | None = None) -> Scale:
    """The scale of this name.

    Args:
        data_dir: at smoke Fashion-MNIST, with Debian's folder as the default. At the other scales CIFAR, in
            torchvision's layout or as train/ and test/ with a folder of images for each class.
        epochs: length of the schedule, in place of the scale's own number.

    Raises:
        ConfigError: small or paper without data, or smoke with epochs.
    """
    if name == "smoke":
        if epochs is not None:
            raise ConfigError("--epochs is for --scale small and paper: --scale smoke counts rounds")
        return _smoke(data_dir)
    if data_dir is None:
        raise ConfigError(f"--scale {name} trains on CIFAR: give its folder with --data-dir")
    images = (data_dir / "train").is_dir()
    dataset = {"task.dataset": "imagefolder", "task.data": "cut"} if images else {"task.dataset": "cifar10"}
    data = {**dataset, "task.data_dir": str(data_dir.absolute())}
    resnet, vgg = (PAPER_EPOCHS, PAPER_EPOCHS) if name == "paper" else (4, 1)
    resnet, vgg = epochs or resnet, epochs or vgg
    networks = {
        RESNET20: {"task.model": "resnet20", "task.norm": "batch"} | data | _resnet(resnet),
        RESNET20_GROUP: {"task.model": "resnet20", "task.norm": "group"} | data | _resnet(resnet),
        VGG11: {"task.model": "vgg11"} | data | _vgg(vgg),
    }
    if name == "paper":
        large = {"task.model": "resnet110", "task.norm": "batch"} | data | _resnet(resnet)
        networks[RESNET110] = large
        if not images:
            networks[RESNET110_CIFAR100] = large | {"task.dataset": "cifar100"}
    return Scale(name, networks)


def _smoke(data_dir: Path | None) -> Scale:
    folder = str(data_dir.absolute()) if data_dir else ""
    data: dict[str, object] = {"task.dataset": "fashion-mnist", "task.data_dir": folder}
    small = {"task.model": "small-cnn", "task.learning_rate": 0.02} | data
    networks = {
        RESNET20: small | {"run.rounds": 500},
        RESNET20_GROUP: small | {"run.rounds": 2000},
        VGG11: {"task.model": "lenet5", "task.learning_rate": 0.02, "run.rounds": 500} | data,
    }
    return Scale("smoke", networks)


def _resnet(epochs: int) -> dict[str, object]:
    return {
        **_RESNET,
        "task.augment": True,
        "task.milestones": scaled_milestones(_RESNET_MILESTONES, epochs),
    } | _length(epochs)


def _vgg(epochs: int) -> dict[str, object]:
    return {**_VGG, "task.augment": True, "task.milestones": scaled_milestones(_VGG_MILESTONES, epochs)} | _length(
        epochs
    )


def _length(epochs: int) -> dict[str, object]:
    return {"run.rounds": epochs * ceil(ceil(_CIFAR_SAMPLES / NODES) / BATCH)}


def scaled_milestones(milestones: Iterable[int], epochs: int) -> list[int]:
    """Milestones of the paper's 200 epochs at the same fractions of a shorter run, without duplicates."""
    places = {round(milestone * epochs / PAPER_EPOCHS) for milestone in milestones}
    return sorted(place for place in places if 0 < place < epochs)


def graph_period(epochs: int, rounds: int) -> str:
    """The period of ``topology.every`` that gives a run as many switches as the paper's 200 epochs."""
    return f"{max(1, round(epochs / PAPER_EPOCHS * rounds))}r"
