"""Arrays -> a safetensors file, part after part. `safetensors` itself would hold a second copy of all of them.

The file has the length of a header in 8 bytes, the header in JSON, and the bytes of each array. Arrays of the widest
numbers come first, so every array lies at a multiple of the size of its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenode.errors import CheckpointError

_ALIGNMENT = 8
_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "complex64": "C64", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip


def parts(arrays: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """The file, in parts that are to be joined. An array that is contiguous is not copied.

    Raises:
        CheckpointError: an array has numbers that the file cannot have.
    """
    header, end = {}, 0
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    for name in names:
        array = arrays[name]
        if array.dtype.name not in _NAMES:
            raise CheckpointError(f"{name!r} has numbers of the type {array.dtype}, which no checkpoint can have")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        array = arrays[name]
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        yield little.reshape(-1).view(np.uint8).data
