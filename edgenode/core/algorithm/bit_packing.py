"""Whole numbers of a width in bits, one after the other, high bits first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import Ints

_CHUNK = 65_536  # a multiple of 8: numbers of any width that begin at one begin a byte
_NARROW = 8  # bits: eight numbers that are not wider fit a word of 64
_WORDS: Mapping[int, str] = {16: ">u2", 32: ">u4"}  # of wider numbers, by their bits


def packed_bytes(entries: int, width: int) -> int:
    """The size of so many numbers."""
    return (entries * width + 7) // 8


def _word(width: int) -> tuple[int, str]:
    """The bits and the type of the smallest word that holds numbers of a width."""
    return next((bits, word) for bits, word in _WORDS.items() if width <= bits)


def pack(numbers: NDArray[np.integer], width: int) -> bytes:
    """The numbers in ``width`` bits each, high bits first."""
    if width > _NARROW:
        bits, word = _word(width)
        stream = np.unpackbits(numbers.astype(word).view(np.uint8)).reshape(-1, bits)
        return np.packbits(stream[:, bits - width :]).tobytes()
    chunks = (numbers[begin : begin + _CHUNK] for begin in range(0, len(numbers), _CHUNK))
    return b"".join(_packed(chunk, width) for chunk in chunks)


def _packed(numbers: NDArray[np.integer], width: int) -> bytes:
    groups = np.zeros((-(-len(numbers) // 8), 8), dtype=np.int64)
    groups.reshape(-1)[: len(numbers)] = numbers & ((1 << width) - 1)
    words = groups @ (1 << _places(width))
    return (
        words.astype(">i8").view(np.uint8).reshape(-1, 8)[:, 8 - width :].tobytes()[: (len(numbers) * width + 7) // 8]
    )


def unpack(packed: NDArray[np.uint8], entries: int, width: int, dtype: type[np.integer] = np.int64) -> NDArray[Any]:
    """The inverse of ``pack``, as numbers of a type that holds them."""
    if width > _NARROW:
        bits, word = _word(width)
        stream = np.zeros((entries, bits), dtype=np.uint8)
        stream[:, bits - width :] = np.unpackbits(packed, count=entries * width).reshape(entries, width)
        return np.packbits(stream).view(word).astype(np.int64)
    numbers = np.empty(entries, dtype=dtype)
    for begin in range(0, entries, _CHUNK):
        chunk = numbers[begin : begin + _CHUNK]
        chunk[:] = _unpacked(packed[begin * width // 8 :][: (len(chunk) * width + 7) // 8], len(chunk), width)
    return numbers


def _unpacked(packed: NDArray[np.uint8], entries: int, width: int) -> Ints:
    groups = np.zeros((-(-entries // 8), 8), dtype=np.uint8)
    padded = np.zeros(len(groups) * width, dtype=np.uint8)
    padded[: len(packed)] = packed
    groups[:, 8 - width :] = padded.reshape(len(groups), width)
    words = groups.view(">i8").astype(np.int64)
    return ((words >> _places(width)) & ((1 << width) - 1)).reshape(-1)[:entries]


def _places(width: int) -> Ints:
    """The shifts, in bits, of eight numbers of a width in their word."""
    return width * np.arange(7, -1, -1)
