"""The messages that a node has sent, for as long as one may have to be undone. Pure.

Until a message is mixed, it is there as numbers. Afterwards it is there as bytes, which the protocol holds as well
until its receivers have answered. A message is hardly ever undone, and numbers take up to 32 times as much memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Layout, PayloadFormat
from edgenode.core.algorithm.sparse_push import Sent, Weights


@dataclass(frozen=True)
class _Mixed:
    """A message that is mixed: a `Sent` whose payload is bytes, with what is needed to decode them."""

    data: bytes
    payload_format: PayloadFormat | None
    layout: Layout
    u: Weights
    averaging_rate: float
    block: int | None

    def sent(self) -> Sent:
        """The message, whose numbers are those that were encoded, to the bit."""
        payload = codec.decode_as(self.payload_format, self.data, self.layout)
        return Sent(payload, self.u, self.averaging_rate, self.block)


class SentMessages:
    """The messages by their rounds.

    Args:
        may_undo: a message may still be undone after it is mixed.
    """

    def __init__(self, may_undo: bool) -> None:
        self._may_undo = may_undo
        self._unmixed: dict[int, tuple[Sent, _Mixed]] = {}
        self._mixed: dict[int, _Mixed] = {}

    def add(self, t: int, sent: Sent, payload_format: PayloadFormat | None, layout: Layout) -> bytes:
        """Keep the message of round t, and return its bytes."""
        data = (payload_format or codec).encode(sent.payload, layout)
        mixed = _Mixed(data, payload_format, layout, sent.u, sent.averaging_rate, sent.block)
        self._unmixed[t] = sent, mixed
        return data

    def unmixed(self, t: int) -> Sent:
        """The message of round t, which is not mixed yet."""
        return self._unmixed[t][0]

    def end(self, t: int) -> None:
        """The message of round t is mixed."""
        _, mixed = self._unmixed.pop(t)
        if self._may_undo:
            self._mixed[t] = mixed

    def to_undo(self, t: int) -> Sent:
        """The message of round t, mixed or not."""
        return self.unmixed(t) if t in self._unmixed else self._mixed[t].sent()

    def discard(self, t: int) -> None:
        """Free the messages of before round t, which can no longer be undone."""
        for kept in (self._unmixed, self._mixed):
            for old in [sent for sent in kept if sent < t]:
                del kept[old]
