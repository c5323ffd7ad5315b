"""Payloads of every compressor, and messages with chosen headers, for the tests of the codec."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from edgenode.core.algorithm.codec import decode
from edgenode.core.algorithm.compression import (
    Compressor,
    Floats,
    Ints,
    Layout,
    Payload,
    TopK,
    Values,
    as_float32,
    keep_all,
    keep_none,
)
from edgenode.core.algorithm.rounding import Fitted, Integers, Random, as_bfloat16, as_int4, as_int8, per_tensor
from edgenode.errors import RemoteProtocolError

SELECTIONS = [keep_all, keep_none, TopK(0.01), TopK(0.2), TopK(1.0)]


def as_signs(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    """Signs, with the largest magnitude of each tensor."""
    scales = per_tensor(np.maximum, np.abs(numbers), counts)
    return Values(np.where(np.signbit(numbers), -1, 1).astype(np.int8), bits=1, scales=scales)


QUANTISERS = [
    as_float32, as_bfloat16, as_int8, as_int4, Random(1), Random(2), Random(4), as_signs,
    Fitted(4), Fitted(2), Fitted(1), Integers(8, coarseness=0.5),
]  # fmt: skip
HEADER = 5
SPARSE = 0x10
FORMS = {
    "float32": 0, "bfloat16": 1, 8: 2, 1: 3, 2: 4, 3: 5, 4: 6, 5: 7, "fitted1": 8, "fitted2": 9, "fitted4": 10,
    "coded": 11,
}  # fmt: skip
COMPRESSORS = [Compressor(select, quantise) for select in SELECTIONS for quantise in QUANTISERS]
SMALL = Layout((1, 40, 7, 1))


def a_payload(compressor: Compressor, layout: Layout, seed: int = 0, magnitude: float = 1.0) -> Payload:
    rng = np.random.default_rng(seed)
    return compressor((rng.standard_normal(layout.size) * magnitude).astype(np.float32), layout, rng)


def resealed(data: bytes) -> bytes:
    """The data with a valid checksum, so that the checks after it are reached."""
    return sealed(data[0] & 0x1F, data[HEADER:], data[0] >> 5)


def sealed(form: int, body: bytes, version: int = 4) -> bytes:
    head = bytes([version << 5 | form])
    return head + zlib.crc32(head + body).to_bytes(4, "little") + body


def refuse(data: bytes, layout: Layout, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        decode(data, layout)
