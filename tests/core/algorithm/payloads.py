"""Payloads of every compressor, and messages with chosen headers, for the tests of the codec."""

from __future__ import annotations

import struct
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
    Random,
    TopK,
    Values,
    as_bfloat16,
    as_float32,
    as_int4,
    as_int8,
    keep_all,
    keep_none,
    per_tensor,
)
from edgenode.errors import RemoteProtocolError

SELECTIONS = [keep_all, keep_none, TopK(0.01), TopK(0.2), TopK(1.0)]


def as_signs(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    """Signs, with the largest magnitude of each tensor."""
    scales = per_tensor(np.maximum, np.abs(numbers), counts)
    return Values(np.where(np.signbit(numbers), -1, 1).astype(np.int8), bits=1, scales=scales)


QUANTISERS = [as_float32, as_bfloat16, as_int8, as_int4, Random(1), Random(2), Random(4), as_signs]
COMPRESSORS = [Compressor(select, quantise) for select in SELECTIONS for quantise in QUANTISERS]
SMALL = Layout((1, 40, 7, 1))


def a_payload(compressor: Compressor, layout: Layout, seed: int = 0, magnitude: float = 1.0) -> Payload:
    rng = np.random.default_rng(seed)
    return compressor((rng.standard_normal(layout.size) * magnitude).astype(np.float32), layout, rng)


def resealed(data: bytes) -> bytes:
    """The data with a valid length and checksum, so that the checks after them are reached."""
    head = struct.unpack_from("<BBII", data)
    return sealed(*head, data[18:])


def sealed(version: int, form: int, entries: int, unary_bytes: int, body: bytes) -> bytes:
    head = struct.pack("<BBIII", version, form, entries, unary_bytes, 18 + len(body))
    return head + struct.pack("<I", zlib.crc32(head + body)) + body


def refuse(data: bytes, layout: Layout, match: str | None = None) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        decode(data, layout)
