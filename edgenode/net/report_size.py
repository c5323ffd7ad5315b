"""Measures a report before it is decoded: without the records of its plan, which are large in a long run.

A number takes one byte of a message, and 60 of the memory of whoever decodes it. So the size that counts is that of the
bytes, and what is too large is never decoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from edgenode.errors import RemoteProtocolError
from edgenode.net.proto import control_pb2

_LONGEST_VARINT = 10
_Fields = Mapping[int, Any]  # by number: the fields of a message in which there are records, or None for records


class _Kind(IntEnum):
    """The wire types of protobuf."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5


def _fields(*paths: str) -> _Fields:
    """The numbers of the fields on some paths, as a tree."""
    tree: dict[int, Any] = {}
    for path in paths:
        kind, node = control_pb2.AttendRequest.DESCRIPTOR, tree
        *messages, records = path.split(".")
        for name in messages:
            field = kind.fields_by_name[name]
            kind, node = field.message_type, node.setdefault(field.number, {})
        node[kind.fields_by_name[records].number] = None
    return tree


_RECORDS = _fields("join.saved.records", "fence_answer.records", "progress.farewell.records")


def check_size(report: bytes, most: int) -> None:
    """Check that a report has a limited number of bytes beside the records of its plan.

    Raises:
        RemoteProtocolError: it has more, or is not a message.
    """
    if len(report) > most and _beside_records(report, 0, len(report), _RECORDS, most) > most:
        raise RemoteProtocolError(
            f"a report of {len(report)} bytes, at most {most} of them beside the records of a plan"
        )


def _beside_records(message: bytes, at: int, end: int, fields: _Fields, most: int) -> int:
    """Count the bytes of a message without those of records. It stops when there are too many."""
    count = 0
    while at < end and count <= most:
        begin = at
        tag, at = _varint(message, at, end)
        number, kind = tag >> 3, tag & 7
        size, at = _varint(message, at, end) if kind == _Kind.BYTES else (_size(message, at, end, kind), at)
        if size > end - at:
            raise RemoteProtocolError("malformed report: a field is longer than its message")
        count += at - begin
        if kind != _Kind.BYTES or number not in fields:
            count += size
        elif (inner := fields[number]) is not None:
            count += _beside_records(message, at, at + size, inner, most)
        at += size
    return count


def _size(message: bytes, at: int, end: int, kind: int) -> int:
    match kind:
        case _Kind.VARINT:
            return _varint(message, at, end)[1] - at
        case _Kind.FIXED64:
            return 8
        case _Kind.FIXED32:
            return 4
    raise RemoteProtocolError("malformed report: a field of an unknown kind")


def _varint(message: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    if at < end and message[at] < 0x80:  # as almost all are: a report of 1 MiB has up to a million
        return message[at], at + 1
    number = 0
    for shift, byte in enumerate(message[at : min(at + _LONGEST_VARINT, end)]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, at + shift + 1
    raise RemoteProtocolError("malformed report: a number does not end")
