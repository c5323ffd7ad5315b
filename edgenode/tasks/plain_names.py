"""The names of a model's parts without `torch.compile`, which puts a wrapper around a module and so into all names.

What is exchanged, kept and published has these names. So nodes with and without a compiler train one model.
"""

from __future__ import annotations

from torch import Tensor, nn

_WRAPPED = "_orig_mod"


def plain_name(name: str) -> str:
    """Return the name that a module, parameter or buffer has without `torch.compile`."""
    return ".".join(part for part in name.split(".") if part != _WRAPPED)


def plain_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model's state dict, which share memory with it."""
    return {plain_name(name): value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def class_name(model: nn.Module) -> str:
    """Return the name of a model's class."""
    return type(getattr(model, _WRAPPED, model)).__qualname__
