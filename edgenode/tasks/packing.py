"""A state dict as named arrays, without pickle: tensors as they are, the rest as JSON.

    pack("optimizer", {"state": {0: {"step": tensor}}, "lr": 0.1})
        -> {"optimizer.json": array of bytes, "optimizer.state.0.step": array}

What comes back is equal in type and to the bit, tensors on the CPU. To unpack runs no code: what cannot be written as
data is refused when it is packed.
"""

from __future__ import annotations

import base64
import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgenode.errors import CheckpointError, ConfigError, described

Arrays = dict[str, NDArray[Any]]

_NUMBERS = "biuf"  # the kinds of numpy's formats that a checkpoint holds: no complex numbers, no objects
_PLAIN = (str, int, float, bool, type(None))
_MAPPINGS: dict[str, Any] = {"dict": dict, "counter": Counter, "ordered": OrderedDict}
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def pack(name: str, state: object, copy: bool = True) -> Arrays:
    """The arrays of a state, under names that begin with `name`.

    Args:
        copy: they share no memory with the state. Without it, tensors of more than one number may.

    Raises:
        ConfigError: the state holds something else than numbers, text, tensors, arrays and collections of them. The
            text says where.
    """
    text = f"{name}.json"
    arrays: Arrays = {text: np.empty(0)}  # so that no tensor takes its name
    arrays[text] = np.frombuffer(json.dumps(_encoded(state, name, arrays, copy)).encode(), np.uint8)
    return arrays


def unpack(name: str, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the state that was packed under `name`. Raises CheckpointError if there is none, or it is damaged."""
    if f"{name}.json" not in arrays:
        raise CheckpointError(f"{name!r} cannot be restored: the checkpoint does not have it")
    try:
        return _decoded(json.loads(arrays[f"{name}.json"].tobytes()), arrays)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, StopIteration) as exc:
        raise CheckpointError(f"{name!r} cannot be restored: {described(exc)}") from exc


def _encoded(value: object, path: str, arrays: Arrays, copy: bool) -> Any:
    """The value as JSON. A list stays a list. An object {kind: content} is anything else that JSON does not have."""
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided:
            raise ConfigError(f"{path} cannot be kept in a checkpoint: a tensor in {value.layout} is not dense")
        return {"tensor": _kept(_array(value, copy), path, arrays), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in _NUMBERS:
            raise ConfigError(f"{path} cannot be kept in a checkpoint: an array of {value.dtype} does not hold numbers")
        return {"scalar" if isinstance(value, np.generic) else "array": _kept(np.array(value, order="C"), path, arrays)}
    if type(value) in _PLAIN:
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        kind = next((kind for kind, known in _MAPPINGS.items() if type(value) is known), "dict")
        pairs = value.items()
        return {kind: [[_encoded(k, path, arrays, copy), _encoded(v, f"{path}.{k}", arrays, copy)] for k, v in pairs]}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_encoded(item, f"{path}.{i}", arrays, copy) for i, item in enumerate(value)]
        kind = next((kind for kind, known in _SEQUENCES.items() if isinstance(value, known)), "")
        return {kind: items} if kind else items
    raise ConfigError(f"{path} cannot be kept in a checkpoint: {type(value).__name__} is not a tensor or a number")


def _decoded(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    match kind:
        case "tensor":
            return _tensor(arrays[content], value["dtype"])
        case "array":
            return np.array(arrays[content])
        case "scalar":
            return arrays[content][()]
        case "bytes":
            return base64.b64decode(content, validate=True)
        case _ if kind in _MAPPINGS:
            return _MAPPINGS[kind]({_decoded(k, arrays): _decoded(v, arrays) for k, v in content})
    return _SEQUENCES[kind](_decoded(item, arrays) for item in content)


def _kept(array: NDArray[Any], path: str, arrays: Arrays) -> str:
    """Keep an array under a new name."""
    name = path
    while name in arrays:
        name += "_"
    arrays[name] = array
    return name


def _array(tensor: torch.Tensor, copy: bool) -> NDArray[Any]:
    """The numbers in the order of their positions. numpy lacks some of torch's formats, so those travel as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    if copy or tensor.numel() == 1:
        tensor = tensor.clone()
    with suppress(TypeError):
        if (array := tensor.numpy()).dtype.kind in _NUMBERS:
            return array
    return tensor.unsqueeze(-1).view(torch.uint8).numpy()


def _tensor(array: NDArray[Any], dtype_name: str) -> torch.Tensor:
    dtype = getattr(torch, dtype_name)
    tensor = torch.from_numpy(np.array(array))
    if tensor.dtype == dtype:
        return tensor
    return tensor.view(dtype).squeeze(-1) if tensor.numel() else torch.empty(tensor.shape[:-1], dtype=dtype)
