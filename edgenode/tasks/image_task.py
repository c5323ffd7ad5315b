"""The task that run.toml describes without code: a data set and a model, each by its name.

Images stay in their stored type until a batch is used, so that a small device holds one byte per pixel. Training images
are varied and all images normalised where a batch is used: by the loss and the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgenode.errors import LocalProtocolError
from edgenode.tasks import augment, datasets, models
from edgenode.tasks.datasets import Dataset
from edgenode.tasks.folder_samples import FolderSamples, ImageSamples
from edgenode.tasks.task import Batch, NodeInfo, Samples, Task


class ImageTask(Task):
    """Classification of images.

    Args:
        classes: if given, the classes of an imagefolder on every node. A node may have images of only some of them.
        image_size: if given, images of an imagefolder are scaled and cropped to it.
        common_moments: images are normalised by constants that are equal on all nodes, and not by the moments of the
            training images. For nodes that have data of their own.

    Raises:
        ConfigError: there is no data set or model of that name.
    """

    draws_from_torch_alone = True

    def __init__(
        self,
        dataset: str = "digits",
        model: str = "small-cnn",
        norm: str = "batch",
        *,
        augment: bool = False,
        classes: Sequence[str] = (),
        image_size: int | None = None,
        common_moments: bool = False,
    ) -> None:
        datasets.refuse_unknown(dataset)
        models.refuse_unknown(model)
        self._name, self._model, self._norm, self._augment = dataset, model, norm, augment
        self._classes, self._image_size, self._common_moments = tuple(classes), image_size, common_moments
        self._dataset: Dataset | None = None
        self._moments: tuple[object, list[Tensor]] = None, []  # of which data set and device, and its mean and std

    def _load(self, node: NodeInfo) -> Dataset:
        # The last one stays loaded: model and loss need its shape and its moments.
        self._dataset = datasets.load(self._name, node.data_dir, self._classes, self._image_size)
        if self._common_moments:
            self._dataset = datasets.with_common_moments(self._dataset)
        return self._dataset

    @property
    def dataset(self) -> Dataset:
        """The data set of the last node that data was loaded for. Raises LocalProtocolError if there is none."""
        if self._dataset is None:
            raise LocalProtocolError(f"the data of {self._name!r} is not loaded")
        return self._dataset

    def model(self) -> nn.Module:
        found = self.dataset
        return models.build(self._model, found.num_classes, found.channels, found.image_size, self._norm)

    def metadata(self) -> dict[str, str]:
        found = self.dataset
        image = {"channels": found.channels, "size": found.image_size, "mean": found.mean, "std": found.std}
        classes = found.classes or [str(label) for label in range(found.num_classes)]
        return {
            "model": self._model,
            "norm": self._norm,
            "dataset": self._name,
            "classes": json.dumps(classes),
            "image": json.dumps(image),
        }

    def train_data(self, node: NodeInfo) -> Samples:
        found = self._load(node)
        if found.listings is not None:
            return FolderSamples(found.train_images, found.listings[0], self._image_size)
        return ImageSamples(found.train_images, found.train_labels)

    def test_data(self, node: NodeInfo) -> Samples | None:
        found = self._load(node)
        if not len(found.test_labels):
            return None
        if found.listings is not None:
            return FolderSamples(found.test_images, found.listings[1], self._image_size)
        return ImageSamples(found.test_images, found.test_labels)

    def collate(self, samples: Sequence[Any]) -> Batch:
        return samples  # a batch already

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, self.prepared(batch))

    def prepared(self, batch: Batch) -> Batch:
        """A batch as the model is trained on: varied at random, if asked for, and normalised."""
        images, labels = batch
        if self._augment:
            # Before normalisation, as in torchvision's transforms: the border is black.
            images = augment.apply(images, augment.draw(len(images)))
        return self._normalised(images), labels

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> float | dict[str, float] | None:
        return super().evaluate(model, self._all_normalised(batches))

    def _all_normalised(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            yield self._normalised(images), labels

    def _normalised(self, images: Tensor) -> Tensor:
        key = self.dataset, images.device
        if self._moments[0] != key:
            values = (self.dataset.mean, self.dataset.std)
            self._moments = key, [torch.tensor(value, device=images.device).view(1, -1, 1, 1) for value in values]
        mean, std = self._moments[1]
        return (images.float() - mean) / std
