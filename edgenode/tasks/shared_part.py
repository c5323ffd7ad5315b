"""The part of a model that all nodes share. The rest is each node's own: it is trained here, and never sent.

1. A name chooses what has it, and all that is inside of a module with it. It may be a pattern, as of a shell.
2. Buffers such as BatchNorm statistics go with the parameters of their layer. Those of a layer without trainable
   parameters are chosen by their name.
3. A tensor that two layers have is shared if one of them is.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.packing import Arrays, pack, unpack
from edgenode.tasks.plain_names import plain_name, plain_state_dict

Shared = str | nn.Module | Collection[str | nn.Module] | None
"""Names or patterns of parameters and modules, or modules of the model. None is all of it."""

_OWN = "own"
OWN_PREFIX = f"{_OWN}."
_SHOWN = 4


class SharedPart:
    """The trainable parameters and the buffers of a model, parted.

    Attributes:
        shared: the parameters that all nodes share, by name.
        own: the parameters that are this node's own, by name.

    Raises:
        ConfigError: a name or a module chooses no trainable parameter. The text names it.
    """

    def __init__(self, model: nn.Module, shared: Shared = None) -> None:
        self._model = model
        trained = {plain_name(name): p for name, p in model.named_parameters() if p.requires_grad}
        self._patterns = ["*"] if shared is None else [_pattern(model, one) for one in _listed(shared)]
        chosen = self._chosen() if trained else set()
        self.shared = {name: p for name, p in trained.items() if id(p) in chosen}
        self.own = {name: p for name, p in trained.items() if id(p) not in chosen}
        self._shared_buffers = self._names_of_shared_buffers(chosen)

    def _chosen(self) -> set[int]:
        """The ids of the shared parameters."""
        every = self._model.named_parameters(remove_duplicate=False)
        names = [(plain_name(name), p) for name, p in every if p.requires_grad]
        chosen = [{id(p) for name, p in names if _matches(name, pattern)} for pattern in self._patterns]
        for pattern, found in zip(self._patterns, chosen, strict=True):
            if not found:
                parts = list(dict.fromkeys(name.partition(".")[0] for name, _ in names))
                more = ", ..." if len(parts) > _SHOWN else ""
                raise ConfigError(
                    f"shared: {pattern!r} matches no trainable parameter of the model, whose parts are "
                    f"{', '.join(parts[:_SHOWN])}{more}"
                )
        return set[int]().union(*chosen)

    def _names_of_shared_buffers(self, chosen: set[int]) -> set[str]:
        names = set[str]()
        for prefix, module in self._model.named_modules():
            trained = [p for p in module.parameters(recurse=False) if p.requires_grad]
            for name, _ in module.named_buffers(plain_name(prefix), recurse=False):
                if any(id(p) in chosen for p in trained) if trained else self._matches(name):
                    names.add(name)
        return names

    def _matches(self, name: str) -> bool:
        return any(_matches(name, pattern) for pattern in self._patterns)

    def buffers(self) -> dict[str, Tensor]:
        """The buffers of the shared part."""
        return {name: buffer for name, buffer in self._all_buffers().items() if name in self._shared_buffers}

    def _all_buffers(self) -> dict[str, Tensor]:
        return {plain_name(name): buffer for name, buffer in self._model.named_buffers()}

    def _own_tensors(self) -> dict[str, Tensor]:
        """All of the state dict that is trained here and not shared."""
        kept = plain_state_dict(self._model).keys() - self._shared_buffers
        buffers = {name: buffer for name, buffer in self._all_buffers().items() if name in kept}
        return {**{name: p.detach() for name, p in self.own.items()}, **buffers}

    def own_state(self) -> Arrays:
        """Return copies of this node's own part, under names that begin with `OWN_PREFIX`."""
        tensors = self._own_tensors()
        return pack(_OWN, tensors) if tensors else {}

    def load_own_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `own_state` returned.

        Raises:
            CheckpointError: it is of another model. Nothing is loaded then.
        """
        own = self._own_tensors()
        arrays = {name: array for name, array in state.items() if name.startswith(OWN_PREFIX)}
        theirs = unpack(_OWN, arrays) if arrays else {}
        for name in sorted(own.keys() | theirs.keys()):
            here, there = (tuple(t[name].shape) if name in t else "absent" for t in (own, theirs))
            if here != there:
                raise CheckpointError(
                    f"this node's own part has changed: {name} is {there} in the checkpoint and {here} in the model"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(theirs[name])


def _listed(shared: Shared) -> list[str | nn.Module]:
    if isinstance(shared, str | nn.Module):
        return [shared]
    chosen = list(shared) if isinstance(shared, Collection) else [shared]
    if not chosen:
        raise ConfigError("shared is empty, so the nodes would exchange nothing: name a part, or leave it out for all")
    return chosen  # type: ignore[return-value]  # `_pattern` judges each


def _pattern(model: nn.Module, one: object) -> str:
    """The pattern of a name, or of the name of a module."""
    if isinstance(one, str):
        return one
    if not isinstance(one, nn.Module):
        raise ConfigError(f"shared has a {type(one).__name__}, but it takes names, patterns and modules of the model")
    for name, module in model.named_modules(remove_duplicate=False):
        if module is one:
            return glob.escape(plain_name(name)) or "*"
    raise ConfigError(f"shared has a {type(one).__name__} that is not a part of the model")


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name, or that of a module around it, fits a pattern."""
    return any(fnmatchcase(part, pattern) for part in accumulate(name.split("."), "{}.{}".format))
