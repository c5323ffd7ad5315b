"""The parameters that nodes share as one vector: float32 [size], in the order of named_parameters().

All that nodes exchange is this vector. By default it has the trainable parameters, and with a `shared_part` some of
them. Parameters without `requires_grad` and buffers (BatchNorm statistics) are not part of it. A tensor that two layers
share is in it once. `FlatParameters` copies into and out of any model. `FlatModel` owns its model, and moves the
parameters into one buffer: loading a vector is then one copy, and an optimiser step a few operations on two long
vectors, for any number of layers.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from edgenode.errors import ConfigError, LocalProtocolError
from edgenode.tasks.shared_part import Shared, SharedPart

_OTHER_BYTES = 1 << 20  # names, and the state of schedules
_REGISTER = 16  # float32 numbers in the widest vector register

Vector = NDArray[np.float32]


class FlatParameters:
    """The vector of a model on any device, in any floating-point format.

    A model in another format than float32 holds a rounded copy of what `load` was given.

    Args:
        in_place: each parameter moves to its part of `staging`, if it can lie there, so that nothing is copied. It may
            move away at any time, as by `parameter.data = ...`, and is copied from then on.

    Attributes:
        part: what is shared, and what is this node's own. The latter stays in the model, and is never in a vector.
        parameters: the shared parameters, by name.
        staging: float32 [size] on the CPU, through which vectors are loaded. One that is there need not be copied.
        in_place: parameters lie there, so a step changes it.

    Raises:
        ConfigError: the model cannot be exchanged. The text names the parameter.
    """

    def __init__(self, model: nn.Module, shared: Shared = None, in_place: bool = False) -> None:
        self.model, self.part = model, SharedPart(model, shared)
        self.parameters = self.part.shared
        _refuse_unfit(self.trained)
        self.layout: tuple[tuple[str, int], ...] = tuple((name, p.numel()) for name, p in self.parameters.items())
        self.size = sum(numel for _, numel in self.layout)
        self.own_size = sum(p.numel() for p in self.part.own.values())
        self.is_float32 = all(p.dtype == torch.float32 for p in self.parameters.values())
        self._stage_in(torch.empty(self.size))
        self.in_place = False
        if in_place and self.is_float32:
            self._move_in()

    def _move_in(self) -> None:
        """Let parameters lie in `staging`. Each has a storage of its own, so that no file of one has all others."""
        at = 0
        for parameter in self.parameters.values():
            piece = torch.from_numpy(self.staging[at : (at := at + parameter.numel())]).view(parameter.shape)
            if _may_move(parameter):
                piece.copy_(parameter.data)
                parameter.data, self.in_place = piece, True

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The shared parameters, and then this node's own."""
        return {**self.part.shared, **self.part.own}

    def load(self, vector: Vector) -> None:
        """Copy `vector` [size] into the parameters. It may be `staging` itself."""
        self._stage(vector)
        with torch.no_grad():
            for parameter, piece in zip(self.parameters.values(), _pieces(self._staged, self.parameters), strict=True):
                if not _lies_in(parameter, piece):
                    parameter.copy_(piece)

    def clear_gradients(self) -> None:
        """Clear the gradients before a step."""
        self.model.zero_grad()

    def read(self) -> Vector:
        """Return the parameters as a new array [size]."""
        vector = torch.empty(self.size)
        self._gather(vector)
        return vector.numpy()

    def after_steps(self) -> tuple[Vector, bool]:
        """Return the parameters [size], or what has changed in them since `load`, and whether it is the latter.

        Parameters in float32 are returned, in `staging`. In other formats, their change does not contain what rounding
        made of the vector that was loaded.
        """
        if self.is_float32:
            return self._current(), False
        difference = torch.empty(self.size)
        parameters = self.parameters
        rows = zip(parameters.values(), _pieces(self._staged, parameters), _pieces(difference, parameters), strict=True)
        for parameter, loaded, changed in rows:
            changed.copy_(parameter.detach().cpu().double() - loaded.to(parameter.dtype).double())
        return difference.numpy(), True

    def _current(self) -> Vector:
        """The parameters [size], in `staging`."""
        self._gather(self._staged)
        return self.staging

    def facts(self) -> dict[str, str]:
        """Return the shape of each shared parameter, as facts that must be equal on all nodes."""
        return {f"shared parameter {name}": "x".join(map(str, p.shape)) for name, p in self.parameters.items()}

    @property
    def most_bytes(self) -> int:
        """An upper bound of a model as another node sends it: with averaged buffers, and with what is not a tensor."""
        sizes = [4 * int(tensor.numel()) + int(tensor.nbytes) for tensor in self.model.state_dict().values()]
        return 2 * sum(sizes) + _OTHER_BYTES

    def buffers(self) -> dict[str, Tensor]:
        """The buffers of the shared part."""
        return self.part.buffers()

    def _stage_in(self, tensor: Tensor) -> None:
        """Load vectors through a tensor [size] on the CPU."""
        self._staged = tensor
        self.staging: Vector = tensor.numpy()

    def _stage(self, vector: Vector) -> None:
        if vector is self.staging:
            return
        if vector.shape != (self.size,):
            raise LocalProtocolError(f"a vector of shape {vector.shape} does not fit a model of {self.size} parameters")
        np.copyto(self.staging, vector)

    def _gather(self, flat: Tensor) -> None:
        """Copy the parameters into a tensor [size]."""
        with torch.no_grad():
            for parameter, piece in zip(self.parameters.values(), _pieces(flat, self.parameters), strict=True):
                if not _lies_in(parameter, piece):
                    piece.copy_(parameter)


class FlatModel(FlatParameters):
    """A float32 model on one device, with its parameters as views into `values`, and its gradients into `gradients`.

    `values` and `gradients` are float32 [size] on `device`. On a CPU, `values` are what `staging` shows.

    `padded` has both, then the node's own parameters and their gradients, and then zeros up to a multiple of 16
    entries. The last entries of a vector that does not fill the processor's registers may be rounded otherwise than all
    others.
    """

    def __init__(self, model: nn.Module, device: torch.device, shared: Shared = None) -> None:
        super().__init__(model.to(device), shared)
        self.trained_size = self.size + self.own_size
        self.padded = self.zeros_padded(), self.zeros_padded()
        self.values, self.gradients = (vector[: self.size] for vector in self.padded)
        if device.type == "cpu":
            self._stage_in(self.values)
        self._become_views()

    def zeros_padded(self) -> Tensor:
        """A new vector like those in `padded`."""
        device = next(iter(self.parameters.values())).device
        return torch.zeros(-(-self.trained_size // _REGISTER) * _REGISTER, device=device)

    def clear_gradients(self) -> None:
        self.padded[1].zero_()

    def _become_views(self) -> None:
        trained = self.trained
        values, gradients = (_pieces(vector[: self.trained_size], trained) for vector in self.padded)
        for parameter, value, gradient in zip(trained.values(), values, gradients, strict=True):
            value.copy_(parameter.data)
            parameter.data = value
            # Autograd adds to an existing gradient in place, so the views stay valid. Zero it, never set it to None.
            parameter.grad = gradient

    def load(self, vector: Vector) -> None:
        """Copy `vector` [size] into the parameters. It may be `staging` itself."""
        self._stage(vector)
        if self._staged is not self.values:
            self.values.copy_(self._staged)

    def read(self) -> Vector:
        """Return the parameters as a new array [size]."""
        return self._current().copy()

    def _current(self) -> Vector:
        if self._staged is not self.values:
            self._staged.copy_(self.values)
        return self.staging


def _pieces(flat: Tensor, parameters: dict[str, nn.Parameter]) -> list[Tensor]:
    """Views of a tensor, with the shape of each parameter."""
    pieces = torch.split(flat, [p.numel() for p in parameters.values()])
    return [piece.view(p.shape) for piece, p in zip(pieces, parameters.values(), strict=True)]


def _may_move(parameter: nn.Parameter) -> bool:
    """Return whether a parameter can lie in other memory of the CPU, with its numbers in the order of positions."""
    is_plain = type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.is_contiguous()
    return is_plain and not parameter.is_shared() and not _is_seen(parameter)  # type: ignore[no-untyped-call]


def _is_seen(parameter: nn.Parameter) -> bool:
    """Return whether another tensor shows the memory of a parameter. It would go on to show that, were it to move."""
    uses = getattr(torch._C, "_storage_Use_Count", None)
    return uses is None or uses(parameter.untyped_storage()._cdata) > 2  # itself, and the storage that is asked


def _lies_in(parameter: Tensor, piece: Tensor) -> bool:
    """Return whether a parameter is a view of this memory, entry by entry."""
    return (
        parameter.data_ptr() == piece.data_ptr()
        and parameter.dtype == piece.dtype
        and parameter.stride() == piece.stride()
    )


def _refuse_unfit(parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise ConfigError("the model has no trainable parameter: none has requires_grad")
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(f"parameter {name} has no shape yet: pass one batch through the model first")
        if parameter.is_meta:
            raise ConfigError(f"parameter {name} is on the meta device, where it has no values: move the model first")
        if not parameter.dtype.is_floating_point:
            what = f"parameter {name} is {parameter.dtype}"
            raise ConfigError(f"{what}: only floating-point numbers can be averaged; use a buffer for it")
        if parameter.layout != torch.strided:
            raise ConfigError(f"parameter {name} is {parameter.layout}: only dense tensors can be averaged")
        if not bool(torch.isfinite(parameter.detach().float()).all()):
            raise ConfigError(f"parameter {name} holds NaN or infinity before the first round")
    by_address = sorted((p.data_ptr(), name) for name, p in parameters.items() if p.numel())
    for (address, name), (other, second) in pairwise(by_address):
        if address == other:
            raise ConfigError(f"parameters {name} and {second} share memory: make them one nn.Parameter")
