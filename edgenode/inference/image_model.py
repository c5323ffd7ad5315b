"""A model that edgenode knows by name, rebuilt from the metadata of its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.tasks import models

_MOST = {"channels": 16, "size": 4096, "classes": 100_000}


class ImageModel(nn.Module):
    """A network behind the normalisation that it was trained with.

    It takes images [N, channels, size, size] with the pixel values of the data set, for photos 0 to 255, of any number
    type. It returns logits [N, classes].

    Args:
        mean, std: per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float], size: int) -> None:
        super().__init__()
        self.network = network
        self.image_shape = (len(mean), size, size)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images.float() - self.mean) / self.std)
        return logits

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, str]) -> Self:
        """The model that the metadata of a file describes, with random weights.

        Raises:
            ConfigError: they describe none.
        """
        if "image" not in metadata:
            name = metadata.get("model", "of an unknown class")
            raise ConfigError(f"{path} holds a model of your own, {name}: give the model to load it into")
        try:
            image, classes = json.loads(metadata["image"]), json.loads(metadata["classes"])
            sizes = {"channels": len(image["mean"]), "size": int(image["size"]), "classes": len(classes)}
            mean, std = ([float(value) for value in image[key]] for key in ("mean", "std"))
            sound = len(mean) == len(std) and all(map(math.isfinite, (*mean, *std))) and all(std)
        except (ValueError, TypeError, KeyError) as exc:
            raise ConfigError(f"{path} does not describe its model: {type(exc).__name__} in its metadata") from exc
        if not sound or not all(1 <= sizes[key] <= most for key, most in _MOST.items()):
            raise ConfigError(
                f"{path} does not describe its model: {sizes}, mean {mean} and std {std} are not possible"
            )
        network = models.build(
            metadata.get("model", ""), sizes["classes"], sizes["channels"], sizes["size"], metadata.get("norm", "")
        )
        return cls(network, mean, std, sizes["size"])
