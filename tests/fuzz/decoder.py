"""What a decoder of bytes from outside must hold to, on every input.

1. Only the documented errors leave it: those of `edgenode.errors`.
2. It takes at most 100 ms of processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from edgenode.errors import EdgenodeError

LIMIT_S = 0.1


class TooSlow(Exception):
    """An input took a decoder longer than ``LIMIT_S``."""


@dataclass(frozen=True)
class Decoder:
    """A decoder, and valid inputs to begin with.

    Attributes:
        decode: takes any bytes. It may raise EdgenodeError.
        max_bytes: of an input. What carries the input limits it too.
        share: how many of 100 executions it gets, next to the others. Slow decoders get fewer.
    """

    decode: Callable[[bytes], object]
    valid: tuple[bytes, ...]
    max_bytes: int = 4096
    share: int = 10

    def check(self, data: bytes) -> None:
        """Decode an input.

        Raises:
            TooSlow: it took too long.
            Exception: an error that is not documented.
        """
        began = time.process_time()
        with suppress(EdgenodeError):
            self.decode(data)
        took_s = time.process_time() - began
        if took_s > LIMIT_S:
            raise TooSlow(f"{took_s * 1000:.0f} ms for {len(data)} bytes")
