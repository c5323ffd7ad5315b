"""The device that a node trains on, and how it computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError


def find_device(name: str) -> torch.device:
    """Return the torch device of that name. Raises ConfigError if this machine has none."""
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(f"device {name!r} is unknown to torch: try cpu, cuda or mps") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device = {name}, but torch finds no CUDA device: choose auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"run.device = {name}, but torch finds no Apple GPU: choose auto or cpu")
    return device


def precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager in which layers compute in this precision. It is entered once for each pass."""
    if name == "float32":
        return nullcontext()
    try:
        return torch.autocast(device.type, torch.bfloat16)
    except RuntimeError as exc:
        raise ConfigError(f"task.precision = {name}, but {device.type} does not have it: choose float32") from exc


def deterministic(device: torch.device) -> AbstractContextManager[None]:
    """Return a context manager in which a device computes the same numbers each time."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def channels_last(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Order images [N, C, H, W] in memory as [N, H, W, C]. The layers of a model keep the order of their input."""
    return tuple(
        given.to(memory_format=torch.channels_last)
        if isinstance(given, Tensor) and given.dim() == 4 and given.is_floating_point()
        else given
        for given in inputs
    )
