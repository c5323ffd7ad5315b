"""The task that is attacked: each node holds a random half of a part of the digits, and trains a small network.

The parts are fixed, and only which half of each is used differs between shadow runs. Draws 2 i and 2 i + 1 are
complements.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.tasks import datasets
from edgenode.tasks.folder_samples import ImageSamples
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.partition import partition
from edgenode.tasks.task import NodeInfo, Samples

ENTRY = "edgenode_lab.privacy.victims:Victim"
HIDDEN = 64
CLASSES = 10
_POOL_STREAM, _DRAW_STREAM = 0x900C, 0xD12A

Vectors = NDArray[np.float64]


class Victim(ImageTask):
    """The digits for shadow runs.

    Args:
        draw: the number of the random halves.
        samples: the number of digits that the halves are taken from, a multiple of twice the number of nodes.
        nodes: the number of nodes of the run.
        skew: the skew of the parts, as in task.skew.
    """

    def __init__(self, draw: int, samples: int, nodes: int, skew: float = 0.0) -> None:
        super().__init__("digits")
        self._draw, self._pool = draw, Pool(samples, nodes, skew)

    def model(self) -> nn.Module:
        pixels = self.dataset.image_size**2
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))

    def train_data(self, node: NodeInfo) -> Samples:
        found = self._load(node)
        part = self._pool.parts[int(node.name.removeprefix("node-"))]
        chosen = self._pool.indices[part[torch.from_numpy(self._pool.members(self._draw))[part]]]
        return ImageSamples(found.train_images[chosen], found.train_labels[chosen])


class Pool:
    """The digits that the halves are taken from.

    Attributes:
        indices: where they are in the training data, [samples].
        labels: their classes, [samples].
        parts: the places in the pool of the digits of each node, in ascending order.
    """

    def __init__(self, samples: int, nodes: int, skew: float) -> None:
        labels = _digits().train_labels
        chosen = np.random.default_rng(_POOL_STREAM).permutation(len(labels))[:samples]
        self.indices = torch.from_numpy(chosen)
        self.labels = labels[self.indices]
        self.parts = partition(self.labels, nodes, skew, seed=0)

    @property
    def images(self) -> Vectors:
        """The digits as the network sees them, [samples, pixels]."""
        images: Vectors = all_images()[self.indices.numpy()]
        return images

    def members(self, draw: int) -> NDArray[np.bool_]:
        """Return which digits a draw trains on, [samples]: half of each part."""
        rng = np.random.default_rng((_DRAW_STREAM, draw // 2))
        first = np.zeros(len(self.labels), np.bool_)
        for part in self.parts:
            first[rng.permutation(part.numpy())[: len(part) // 2]] = True
        return ~first if draw % 2 else first

    def owners(self) -> NDArray[np.int64]:
        """Return the number of the node that each digit is at, [samples]."""
        owners = np.empty(len(self.labels), np.int64)
        for number, part in enumerate(self.parts):
            owners[part.numpy()] = number
        return owners


@cache
def _digits() -> datasets.Dataset:
    return datasets.load("digits", None)


def all_images() -> Vectors:
    """Return all training digits as the network sees them, [digits, pixels]."""
    found = _digits()
    images: Vectors = (found.train_images.double().flatten(1).numpy() - found.mean[0]) / found.std[0]
    return images


def logits(z: NDArray[np.float32], images: Vectors) -> Vectors:
    """Return what the network of the flat vector z makes of images, [samples, classes]."""
    weight, bias, last_weight, last_bias = tensors(z, images.shape[1])
    outputs: Vectors = np.maximum(images @ weight.T + bias, 0) @ last_weight.T + last_bias
    return outputs


def tensors(z: NDArray[np.float32], pixels: int) -> tuple[Vectors, Vectors, Vectors, Vectors]:
    """Return weight and bias of the first layer, and of the last, of a flat vector."""
    sizes = np.cumsum([HIDDEN * pixels, HIDDEN, CLASSES * HIDDEN])
    first, bias, last, last_bias = np.split(z.astype(np.float64), sizes)
    return first.reshape(HIDDEN, pixels), bias, last.reshape(CLASSES, HIDDEN), last_bias


def confidences(z: NDArray[np.float32], images: Vectors, labels: Tensor) -> Vectors:
    """Return the logit of the probability that the network gives each image's class, [samples]."""
    outputs = logits(z, images)
    rows, chosen = np.arange(len(labels)), labels.numpy()
    right = outputs[rows, chosen].copy()
    outputs[rows, chosen] = -np.inf
    largest = outputs.max(axis=1)
    confident: Vectors = right - largest - np.log(np.exp(outputs - largest[:, None]).sum(axis=1))
    return confident
