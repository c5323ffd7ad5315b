"""Pushes <-> the frames of a stream, as bytes. No I/O.

A frame is a `PushRequest` of `protos/edgenode/v1/peer.proto`. protobuf itself would copy a payload four times. So it
encodes the header only, and this module places the bytes of the payload behind it: one copy to a frame, one out of it.

A header has what the receiver cannot know, and nothing else. Its record is that of the push before it in the stream,
unless it names another. A weight of one half is the number 2, and a push-sum weight of exactly 1 is absent. So a stream
is a conversation: a sender begins each with a `PushWriter` of its own, and the receiver with a `PushReader`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from edgenode.core.protocol.messages import Message
from edgenode.errors import RemoteProtocolError
from edgenode.net.proto import peer_pb2
from edgenode.net.wire import BEGUN_ROUNDS, CHUNK_BYTES, Identity, records_from_wire, records_to_wire

DONE = b"\x20\x01"  # the last frame of a stream
_HEADER, _CHUNK = b"\x12", b"\x1a"  # the tags of PushRequest's fields 2 and 3
_DIGEST_BYTES = 32
_MOST_PARTS = 1 << 16  # of a weight


class PushWriter:
    """Makes the frames of one stream's pushes."""

    def __init__(self) -> None:
        self._record: tuple[int, str] | None = None

    def frames(self, message: Message) -> Iterator[bytes]:
        """A push as frames: a header with the first part of the payload, then the other parts."""
        payload = memoryview(message.payload)
        header = self._header(message).SerializeToString()
        yield b"".join((_HEADER, _varint(len(header)), header, *_chunk(payload[:CHUNK_BYTES])))
        for at in range(CHUNK_BYTES, len(payload), CHUNK_BYTES):
            yield b"".join(_chunk(payload[at : at + CHUNK_BYTES]))

    def _header(self, message: Message) -> peer_pb2.PushHeader:
        header = peer_pb2.PushHeader(round=message.round)
        if (record := (message.number, message.digest)) != self._record:
            self._record = record
            header.number, header.digest = message.number, bytes.fromhex(message.digest)
        if (parts := _parts(message.weight)) is not None:
            header.weight_parts = parts
        else:
            header.weight = message.weight
        if message.u != (1.0,):
            header.u.extend(message.u)
        if len(message.payload) > CHUNK_BYTES:
            header.payload_bytes = len(message.payload)
        if message.records:
            header.records.extend(records_to_wire(message.records))
        if message.begun_rounds:
            header.begun_rounds.update(message.begun_rounds)
        return header


class PushReader:
    """Makes messages of one stream's frames. Holds at most one payload, of at most ``max_payload_bytes``."""

    def __init__(self, sender: Identity, max_payload_bytes: int) -> None:
        self._sender = sender
        self._max = max_payload_bytes
        self._record: tuple[int, str] | None = None
        self._header: peer_pb2.PushHeader | None = None
        self._parts: list[memoryview] = []
        self._missing = 0  # bytes of the payload

    def feed(self, frame: bytes) -> Message | None:
        """Take one frame. Returns the message that it completes, if any.

        Raises:
            RemoteProtocolError: a frame out of order, or a malformed or too large message.
        """
        header, part = _split(frame)
        if header is not None:
            if self._header is not None:
                raise RemoteProtocolError("unexpected frame: a header within a payload")
            size = header.payload_bytes or len(part)
            if size > self._max:
                raise RemoteProtocolError(f"a payload of {size} bytes; this model's is at most {self._max}")
            self._header, self._missing = header, size
        elif self._header is None or not part:
            raise RemoteProtocolError("unexpected frame: a part of no payload")
        if len(part) > self._missing:
            raise RemoteProtocolError("a payload is longer than its header announces")
        if len(part) != (expected := min(CHUNK_BYTES, self._missing)):
            # many small parts would take far more memory than the payload
            raise RemoteProtocolError(f"a part of a payload has {len(part)} bytes, expected {expected}")
        self._parts.append(part)
        self._missing -= len(part)
        return None if self._missing else self._complete(self._header)

    def end(self) -> None:
        """Take the last frame.

        Raises:
            RemoteProtocolError: a payload is not complete.
        """
        if self._header is not None:
            raise RemoteProtocolError("unexpected frame: the end within a payload")

    def _complete(self, header: peer_pb2.PushHeader) -> Message:
        payload = b"".join(self._parts)
        self._header, self._parts = None, []
        number, digest = self._record_of(header)
        weight, u = _weight_of(header), tuple(header.u) or (1.0,)
        if not all(map(math.isfinite, (*u, weight))):
            raise RemoteProtocolError("a weight is not finite")
        return Message(
            sender=self._sender.node,
            incarnation=self._sender.incarnation,
            round=header.round,
            number=number,
            digest=digest,
            weight=weight,
            u=u,
            payload=payload,
            records=records_from_wire(header.records),
            begun_rounds=BEGUN_ROUNDS.from_wire(header.begun_rounds),
        )

    def _record_of(self, header: peer_pb2.PushHeader) -> tuple[int, str]:
        """Number and digest of the record of a push."""
        if header.digest:
            if len(header.digest) != _DIGEST_BYTES:
                raise RemoteProtocolError(f"a digest of {len(header.digest)} bytes, expected {_DIGEST_BYTES}")
            self._record = header.number, header.digest.hex()
        elif header.number or self._record is None:
            raise RemoteProtocolError("a push does not name its record, and neither did one before it")
        return self._record


def may_have_records(frame: bytes) -> bool:
    """Return whether a frame's header is longer than without records. Their check takes time."""
    return frame[:1] == _HEADER and frame[1:2] >= b"\x80"


def _weight_of(header: peer_pb2.PushHeader) -> float:
    if not header.weight_parts:
        return header.weight
    if header.weight or header.weight_parts > _MOST_PARTS:
        raise RemoteProtocolError(f"a weight of 1/{header.weight_parts} and {header.weight}")
    return 1 / header.weight_parts


def _parts(weight: float) -> int | None:
    """n, if the weight is 1/n to the bit."""
    if not 1 / _MOST_PARTS <= weight <= 1:
        return None
    parts = round(1 / weight)
    return parts if 1 / parts == weight else None


def _split(frame: bytes) -> tuple[peer_pb2.PushHeader | None, memoryview]:
    """The header of a frame, and its part of a payload, which is not copied.

    Raises:
        RemoteProtocolError: it is no frame of a push.
    """
    header, at = None, 0
    if frame[:1] == _HEADER:
        begin, at = _field(frame, 0)
        try:
            header = peer_pb2.PushHeader.FromString(frame[begin:at])
        except DecodeError as exc:
            raise RemoteProtocolError("malformed frame: its header cannot be decoded") from exc
    begin = at
    if frame[at : at + 1] == _CHUNK:
        begin, at = _field(frame, at)
    if at != len(frame):
        raise RemoteProtocolError("unexpected frame: neither a header nor a part of a payload")
    return header, memoryview(frame)[begin:at]


def _field(frame: bytes, at: int) -> tuple[int, int]:
    """Begin and end of the bytes of a field whose tag is at a position."""
    length = shift = 0
    for begin in range(at + 1, min(at + 6, len(frame))):
        length |= (frame[begin] & 0x7F) << shift
        shift += 7
        if frame[begin] < 0x80:
            if begin + 1 + length > len(frame):
                break
            return begin + 1, begin + 1 + length
    raise RemoteProtocolError("malformed frame: a field is longer than the frame")


def _chunk(part: memoryview) -> tuple[bytes | memoryview, ...]:
    return (_CHUNK, _varint(len(part)), part) if part else ()


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
