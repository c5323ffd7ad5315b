"""The task of `edgenode experiment epsilon`: Fashion-MNIST on nodes whose final models are attacked.

The activation is tanh, which suits clipped gradients (Papernot et al. 2021, "Tempered sigmoid activations for deep
learning with differential privacy"). A node's test measures the accuracy, and how many of its training images
the loss attack (Yeom et al. 2018) finds in its model. That number tells of training images, so this task is for
experiments alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgenode.errors import ConfigError
from edgenode.tasks.folder_samples import ImageSamples
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.partition import partition
from edgenode.tasks.task import Batch, NodeInfo, Samples
from edgenode_lab.privacy.membership import true_positives

_FALSE_POSITIVES = 0.01
_MEMBERS = 2500  # of a node that are attacked
_TEST, _OTHER, _MEMBER = range(3)


def _small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 32, 3, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(512, 10),
    )  # fmt: skip


def _published() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=2), nn.Tanh(), nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1), nn.Flatten(),
        nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10),
    )  # fmt: skip


_NETWORKS = {"small": _small, "published": _published}


class PrivateFashion(ImageTask):
    """Fashion-MNIST, of which each node holds a part.

    Args:
        skew: the skew of the parts, as in task.skew.
        network: "small" has two convolutions, a linear layer and 10,186 parameters. "published" is that of Papernot et
            al. and has 26,010.

    Raises:
        ConfigError: there is no such network.
    """

    def __init__(self, skew: float = 0.8, network: str = "small") -> None:
        super().__init__("fashion-mnist", common_moments=True)
        if network not in _NETWORKS:
            raise ConfigError(f"task.options.network: there is no {network!r}, choose one of {', '.join(_NETWORKS)}")
        self._skew, self._network = skew, network

    def model(self) -> nn.Module:
        return _NETWORKS[self._network]()

    def train_data(self, node: NodeInfo) -> Samples:
        found, part = self._load(node), self._part(node)
        return ImageSamples(found.train_images[part], found.train_labels[part])

    def _part(self, node: NodeInfo) -> Tensor:
        if node.number is None or node.number >= node.nodes:
            raise ConfigError(f"{node.name}: the name must end in a number from 0 to {node.nodes - 1}, as node-0 does")
        return partition(self._load(node).train_labels, node.nodes, self._skew, node.seed)[node.number]

    def test_data(self, node: NodeInfo) -> Samples:
        """Return all test images. Behind them are training images of the node, which its own test attacks."""
        found, part = self._load(node), self._part(node)
        members = part[torch.from_numpy(np.random.default_rng(node.seed).permutation(len(part))[:_MEMBERS])]
        others = _in_the_same_proportions(found.test_labels, found.train_labels[part])
        images = (found.test_images, found.test_images[others], found.train_images[members])
        labels = (found.test_labels, found.test_labels[others], found.train_labels[members])
        kinds = torch.repeat_interleave(torch.arange(3), torch.tensor([len(part) for part in labels]))
        return _Attacked(torch.cat(images), torch.cat(labels), kinds)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        scores, right, kinds = [], [], []
        for images, labels, kind in batches:
            outputs = model(self._normalised(images)).float()
            scores.append(_confidences(outputs, labels).cpu())
            right.append((outputs.argmax(dim=1) == labels).cpu())
            kinds.append(kind.cpu())
        kind, score = torch.cat(kinds), torch.cat(scores).double().numpy()
        attacked = (kind != _TEST).numpy()
        found = true_positives(score[attacked], (kind == _MEMBER).numpy()[attacked], _FALSE_POSITIVES)
        accuracy = torch.cat(right)[kind == _TEST].double().mean()
        return {"accuracy": float(accuracy), "found": found.share}


def _confidences(outputs: Tensor, labels: Tensor) -> Tensor:
    """The logit of the probability of each image's class, which grows as the loss falls.

    The loss of a model that is sure is 0 to rounding, for many images alike.
    """
    chosen = functional.one_hot(labels, outputs.shape[1]).bool()
    return outputs[chosen] - outputs.masked_fill(chosen, -torch.inf).logsumexp(dim=1)


class _Attacked(ImageSamples):
    """Images with their classes, and what each is there for."""

    def __init__(self, images: Tensor, labels: Tensor, kinds: Tensor) -> None:
        super().__init__(images, labels)
        self._kinds = kinds

    def __getitems__(self, indices: list[int]) -> Any:
        return (*super().__getitems__(indices), self._kinds[indices])


def _in_the_same_proportions(labels: Tensor, wanted: Tensor) -> Tensor:
    """As many samples as possible with the proportions of the classes in ``wanted``, as positions in ``labels``.

    The classes of a node would otherwise tell its samples from others.
    """
    have, want = torch.bincount(labels).double(), torch.bincount(wanted, minlength=len(torch.bincount(labels))).double()
    counts = (want * (have / want)[want > 0].min()).floor().long().tolist()
    return torch.cat([torch.nonzero(labels == label).flatten()[:count] for label, count in enumerate(counts)])
