"""Random numbers that nobody can predict: AES in counter mode, with a key from the operating system.

The seed of a run is known to all its nodes, who could subtract noise that follows from it.
"""

from __future__ import annotations

import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

_CHUNK = 1 << 15  # numbers: their scratch memory stays in a processor's cache
_SUMMED = 4


class OsRandom:
    """A stream of random numbers.

    Args:
        key: 32 bytes. By default from the operating system.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = Cipher(AES256(key or os.urandom(32)), CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return numbers from 0 to below 1, with 53 random bits each: float64 [count]."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> NDArray[np.float32]:
        """Return standard normal numbers: float32 [count].

        Each is half of the sum of four. The last bits of a single one tell which gradient it was added to
        (Mironov 2012, and Holohan and Braghin 2021, whose remedy this is).
        """
        numbers = np.empty(count, dtype=np.float32)
        for first in range(0, count, _CHUNK):
            part = numbers[first : first + _CHUNK]
            part[:] = sum(self._normal(len(part)) for _ in range(_SUMMED)) / _SUMMED**0.5
        return numbers

    def _normal(self, count: int) -> NDArray[np.float64]:
        """Standard normal numbers by the transform of Box and Muller 1958: float64 [count]."""
        half = -(-count // 2)
        length = np.sqrt(-2 * np.log1p(-self.uniform(half)))  # of 1 minus the number, which is never 0
        angle = 2 * np.pi * self.uniform(half)
        return np.concatenate([length * np.cos(angle), length * np.sin(angle)])[:count]
