"""State dicts as named arrays, for checkpoints without pickle.

Tensors become arrays of their own. Everything else becomes one JSON text, which says where each tensor belongs. It
keeps what plain JSON loses: tuples, keys that are not text, and the types of tensors that numpy does not have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenode.errors import CheckpointError, ConfigError

Arrays = dict[str, NDArray[Any]]

_NO_NUMPY_TYPE = {torch.bfloat16: torch.int16}
_PLAIN = (str, int, float, bool, type(None))


def pack(name: str, state: object) -> Arrays:
    """Return a state dict as arrays whose names begin with ``name`` and a dot. They share no memory with it.

    Raises:
        ConfigError: it holds something other than tensors, arrays, numbers, text, lists, tuples and dicts.
    """
    arrays: Arrays = {}
    text = json.dumps(_packed(state, name, arrays), separators=(",", ":"))
    return {f"{name}.json": np.frombuffer(text.encode(), np.uint8).copy(), **arrays}


def unpack(name: str, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the state dict that ``pack`` was given under this name.

    Raises:
        CheckpointError: it is not among the arrays, or is damaged.
    """
    try:
        return _unpacked(json.loads(arrays[f"{name}.json"].tobytes()), arrays)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as exc:
        raise CheckpointError(f"{name!r} cannot be restored: {exc!r}") from exc


def _packed(value: object, name: str, arrays: Arrays) -> Any:
    match value:
        case Tensor():
            copy = value.detach().cpu()
            stored = _NO_NUMPY_TYPE.get(copy.dtype)
            arrays[name] = (copy if stored is None else copy.view(stored)).numpy().copy()
            return {"tensor": name, "as": str(copy.dtype).removeprefix("torch.")}
        case np.ndarray():
            arrays[name] = value.copy()
            return {"array": name}
        case np.generic():
            return _packed(value.item(), name, arrays)
        case dict():
            return {"dict": [[key, _packed(part, f"{name}.{key}", arrays)] for key, part in value.items()]}
        case list() | tuple():
            parts = [_packed(part, f"{name}.{place}", arrays) for place, part in enumerate(value)]
            return {"tuple": parts} if isinstance(value, tuple) else parts
    if not isinstance(value, _PLAIN):
        raise ConfigError(f"{name} cannot be kept in a checkpoint: {type(value).__name__} is not a tensor or a number")
    return value


def _unpacked(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    match value:
        case {"tensor": name, "as": dtype}:
            tensor = torch.from_numpy(np.array(arrays[name]))
            wanted = getattr(torch, dtype)
            return tensor.view(wanted) if wanted in _NO_NUMPY_TYPE else tensor
        case {"array": name}:
            return np.array(arrays[name])
        case {"dict": pairs}:
            return {key: _unpacked(part, arrays) for key, part in pairs}
        case {"tuple": parts}:
            return tuple(_unpacked(part, arrays) for part in parts)
        case list():
            return [_unpacked(part, arrays) for part in value]
    return value
