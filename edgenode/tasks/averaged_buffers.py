"""Floating-point buffers, such as BatchNorm statistics, as a tail of the vector that the nodes average.

The tail does not change while the nodes train: it would only cost messages, and a compressed average of variances could
become negative. The last local step adds what the buffers have become, and the gossip that follows averages them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgenode.tasks.flat_params import FlatParameters, Vector


class AveragedBuffers:
    """The buffers of a model that become part of the vector. None of them without a model.

    Attributes:
        layout: name and number of entries of each buffer.
        size: the number of entries of all of them.
    """

    def __init__(self, flat: FlatParameters | None) -> None:
        found = {} if flat is None else _floating(flat)
        self.layout = tuple((f"buffer.{name}", buffer.numel()) for name, buffer in found.items())
        self.size = sum(numel for _, numel in self.layout)

    def read(self, flat: FlatParameters) -> Vector:
        """The buffers of a model as a new vector [size]."""
        pieces = [buffer.detach().float().cpu().reshape(-1) for buffer in _floating(flat).values()]
        vector: Vector = torch.cat(pieces).numpy().copy()
        return vector

    def load(self, flat: FlatParameters, vector: Vector) -> None:
        """Copy a vector [size] into the buffers of a model. No variance becomes negative by rounding."""
        at = 0
        for name, buffer in _floating(flat).items():
            values = np.array(vector[at : at + buffer.numel()])
            at += buffer.numel()
            if name.endswith("running_var"):
                values = np.maximum(values, 0)
            buffer.copy_(torch.from_numpy(values).view(buffer.shape))


def _floating(flat: FlatParameters) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in flat.buffers().items() if buffer.is_floating_point()}
