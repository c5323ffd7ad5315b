"""A model whose trainable parameters are views into one flat buffer, and its gradients into another.

Loading a vector is one copy, and an optimiser step is a few operations on two long vectors, for any number of layers.
Buffers (BatchNorm statistics) are not part of the vector.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.errors import LocalProtocolError

Vector = NDArray[np.float32]


class FlatModel:
    """`values` and `gradients` are float32 [size] on `device`, in the order of named_parameters()."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device)
        trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.layout: tuple[tuple[str, int], ...] = tuple((name, p.numel()) for name, p in trainable)
        self.size = sum(numel for _, numel in self.layout)
        self.values = torch.empty(self.size, device=device)
        self.gradients = torch.zeros(self.size, device=device)
        # What numpy sees: the buffer itself on a CPU, a staging buffer for other devices.
        self._host = self.values if device.type == "cpu" else torch.empty(self.size)
        self._become_views([p for _, p in trainable])

    def _become_views(self, parameters: list[nn.Parameter]) -> None:
        pieces = [numel for _, numel in self.layout]
        values, gradients = torch.split(self.values, pieces), torch.split(self.gradients, pieces)
        for parameter, value, gradient in zip(parameters, values, gradients, strict=True):
            value.copy_(parameter.data.reshape(-1))
            parameter.data = value.view(parameter.shape)
            # Autograd adds to an existing gradient in place, so the views stay valid. Zero it, never set it to None.
            parameter.grad = gradient.view(parameter.shape)

    def load(self, vector: Vector) -> None:
        """Copy `vector` [size] into the parameters."""
        if vector.shape != (self.size,):
            raise LocalProtocolError(f"a vector of shape {vector.shape} does not fit a model of {self.size} parameters")
        np.copyto(self._host.numpy(), vector)
        if self._host is not self.values:
            self.values.copy_(self._host)

    def read(self) -> Vector:
        """Return the parameters as a new array [size]."""
        return self._peek().copy()

    def minus(self, vector: Vector) -> Vector:
        """Return the parameters minus `vector` [size]."""
        return np.subtract(self._peek(), vector, dtype=np.float32)

    def _peek(self) -> Vector:
        if self._host is not self.values:
            self._host.copy_(self.values)
        array: Vector = self._host.numpy()
        return array

    def buffers(self) -> dict[str, Tensor]:
        return dict(self.model.named_buffers())
