"""Arrays -> a safetensors file, part after part. `safetensors` itself would hold a second copy of all of them.

The file has the length of a header in 8 bytes, the header in JSON, and the bytes of each array. Arrays of the widest
numbers come first, so every array lies at a multiple of the size of its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgenode.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 8
_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


def parts(
    arrays: Mapping[str, NDArray[Any] | Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The file, in parts that are to be joined. What is contiguous, and on the CPU, is not copied.

    Raises:
        CheckpointError: an array has numbers that the file cannot have.
    """
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in names:
        array = arrays[name]
        numbers = str(array.dtype).removeprefix("torch.")
        if numbers not in _NAMES:
            raise CheckpointError(f"{name!r} has numbers of the type {numbers}, which no checkpoint can have")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[numbers], "shape": tuple(array.shape), "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield _data(arrays[name])


def _data(array: NDArray[Any] | Tensor) -> memoryview:
    """The bytes of an array, the lowest of each number first."""
    if isinstance(array, np.ndarray | np.generic):
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        return little.reshape(-1).view(np.uint8).data
    import torch

    # numpy lacks some of torch's formats
    found: memoryview = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return found
