"""The size of a report is judged by its bytes, before anything is decoded. Records of a plan do not count."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from edgenode.errors import RemoteProtocolError
from edgenode.net.proto import control_pb2
from edgenode.net.report_size import check_size

MOST = 1 << 20
RECORD = bytes(60_000)


def first(**saved: object) -> control_pb2.AttendRequest:
    report = control_pb2.AttendRequest()
    report.join.identity.node = "n0"
    report.join.saved.MergeFrom(type(report.join.saved)(**saved))
    return report


def with_records(count: int) -> list[control_pb2.AttendRequest]:
    """A report of each kind that has records, with some of them."""
    fenced, farewell = control_pb2.AttendRequest(), control_pb2.AttendRequest()
    fenced.fence_answer.records.extend([RECORD] * count)
    fenced.fence_answer.begun_rounds["n1"] = 7
    farewell.progress.farewell.records.extend([RECORD] * count)
    farewell.progress.loss = 0.5
    return [first(records=[RECORD] * count, rounds=[5, 10]), fenced, farewell]


@pytest.mark.parametrize("report", with_records(100), ids=["join", "fence answer", "farewell"])
def test_records_of_a_plan_do_not_count(report: Message) -> None:
    check_size(report.SerializeToString(), MOST)


@pytest.mark.parametrize(
    "large",
    [
        {"run_digest": "x" * MOST}, {"process": "x" * MOST}, {"workload": "x" * MOST}, {"workload_digest": "x" * MOST},
        {"config": "x" * MOST},
    ],
    ids=lambda large: next(iter(large)),
)  # fmt: skip
def test_text_beside_the_records_counts(large: dict[str, str]) -> None:
    report = first(records=[RECORD] * 20)
    report.join.identity.MergeFrom(type(report.join.identity)(**large))
    with pytest.raises(RemoteProtocolError, match=r"a report of \d+ bytes, at most 1048576 of them beside the records"):
        check_size(report.SerializeToString(), MOST)


def test_numbers_beside_the_records_count() -> None:
    report = first(records=[RECORD] * 20, rounds=range(600_000))
    with pytest.raises(RemoteProtocolError, match="beside the records"):
        check_size(report.SerializeToString(), MOST)


class Seen(bytes):
    """Bytes that know how far somebody has looked into them."""

    furthest = 0

    def __getitem__(self, key: Any) -> Any:
        self.furthest = max(self.furthest, key.stop if isinstance(key, slice) else key)
        return super().__getitem__(key)


@pytest.mark.parametrize("again", [b"\x12\x00", b"\x08\x01", b"\xf2\x7f\x00"], ids=["records", "numbers", "unknown"])
def test_fields_without_end_are_looked_at_up_to_the_limit(again: bytes) -> None:
    """29 million empty fields, in 58 MB."""
    saved = again * (58_000_000 // len(again))
    join = b"\x22" + _varint(len(saved)) + saved
    report = Seen(b"\x0a" + _varint(len(join)) + join)
    with pytest.raises(RemoteProtocolError, match="beside the records"):
        check_size(report, 10_000)
    assert report.furthest < 10_100


@pytest.mark.parametrize(
    "end", [b"\x0a\x05abc", b"\x0b", b"\x0a", b"\x08" + b"\xff" * 20, b"\x09abc", b"\x0d"]
)  # fmt: skip
def test_malformed_report_is_refused(end: bytes) -> None:
    report = first(records=[RECORD] * 20).SerializeToString() + end
    with pytest.raises(RemoteProtocolError, match="malformed report"):
        check_size(report, MOST)


def test_small_report_is_left_to_the_decoder() -> None:
    check_size(b"\x0b", MOST)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
