"""Pushes survive their frames, headers are short, and invalid frames are refused with the reason."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.messages import Message
from edgenode.errors import RemoteProtocolError
from edgenode.names import PATTERN
from edgenode.net.proto import peer_pb2
from edgenode.net.push_wire import DONE, PushReader, PushWriter, may_have_records
from edgenode.net.wire import CHUNK_BYTES, Identity
from tests.net.test_wire import a_plan

GRPC_LIMIT_BYTES = 4 * 1024 * 1024
SENDER = Identity("home", "n0", "run", incarnation=3)
DIGEST = "d1" * 32

uint64s = st.integers(0, 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
lengths = st.sampled_from([0, 1, 17, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 1_000_003])


def a_message(payload: bytes = b"abc", **changes: object) -> Message:
    message = Message("n0", 3, round=7, number=0, digest=DIGEST, weight=0.5, u=(1.0,), payload=payload)
    return replace(message, **changes)  # type: ignore[arg-type]


def header(payload_bytes: int = 0, chunk: bytes = b"", **changes: object) -> bytes:
    fields = {"digest": bytes(32), "weight_parts": 2, "payload_bytes": payload_bytes} | changes
    return peer_pb2.PushRequest(header=peer_pb2.PushHeader(**fields), chunk=chunk or None).SerializeToString()


def part(data: bytes) -> bytes:
    return peer_pb2.PushRequest(chunk=data).SerializeToString()


def frames(*messages: Message) -> list[bytes]:
    writer = PushWriter()
    return [frame for message in messages for frame in writer.frames(message)]


def received(*messages: Message, max_payload_bytes: int = 4_000_000) -> list[Message]:
    reader = PushReader(SENDER, max_payload_bytes)
    return [message for frame in frames(*messages) if (message := reader.feed(frame))]


@settings(max_examples=60)
@given(
    t=uint64s,
    number=uint64s,
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    weight=finite | st.sampled_from([1.0, 1 / 2, 1 / 3, 1 / 7, 1 / 49, 2**-16, 2**-17]),
    u=st.lists(finite | st.just(1.0), min_size=1, max_size=3).map(tuple),
    length=lengths,
    records=st.integers(0, 3),
    begun_rounds=st.dictionaries(st.from_regex(PATTERN), st.integers(-1, 2**63 - 1), max_size=3).map(
        lambda begun: tuple(sorted(begun.items()))
    ),
)
def test_message_survives_its_frames(
    t: int,
    number: int,
    digest: str,
    weight: float,
    u: tuple[float, ...],
    length: int,
    records: int,
    begun_rounds: tuple[tuple[str, int], ...],
) -> None:
    payload = bytes(range(256)) * (length // 256 + 1)
    sent = Message("n0", 3, t, number, digest, weight, u, payload[:length], a_plan(2).records[:records], begun_rounds)
    (came,) = received(sent)
    assert came == sent
    assert [math.copysign(1, weight) for weight in came.u] == [math.copysign(1, weight) for weight in u]


def test_messages_follow_each_other_in_one_stream() -> None:
    sent = [a_message(bytes([i]) * size, round=i) for i, size in enumerate((0, 5, 2 * CHUNK_BYTES + 1, 0, CHUNK_BYTES))]
    assert received(*sent) == sent


@pytest.mark.parametrize("length", [0, CHUNK_BYTES, 5_000_000])
def test_frames_stay_far_below_the_limit_of_grpc(length: int) -> None:
    sent = frames(a_message(bytes(length), records=a_plan(40).records))
    assert len(sent) == max(1, math.ceil(length / CHUNK_BYTES))
    assert max(map(len, sent)) < GRPC_LIMIT_BYTES / 8


def test_sender_of_a_message_is_that_of_the_stream() -> None:
    (came,) = received(a_message(sender="another", incarnation=99))
    assert (came.sender, came.incarnation) == ("n0", 3)


def test_payload_of_exactly_the_allowed_size_is_accepted() -> None:
    assert received(a_message(bytes(10)), max_payload_bytes=10)


# --- how short they are


@pytest.mark.parametrize(("u", "most"), [((1.0,), 11), ((0.9,), 20), ((0.9,) * 2, 29)])
def test_a_steady_push_has_few_bytes_beside_its_payload(u: tuple[float, ...], most: int) -> None:
    """The bytes of the gRPC message without the payload."""
    writer, payload = PushWriter(), bytes(2_600)
    # rounds of up to two bytes
    sizes = [
        sum(map(len, writer.frames(a_message(payload, round=t, u=u)))) - len(payload) for t in range(0, 16_384, 127)
    ]
    assert max(sizes[1:]) <= most
    assert sizes[0] < most + 34  # the digest


def test_a_record_is_named_once_and_again_when_it_changes() -> None:
    sent = [a_message(round=t, number=t // 3, digest=f"{t // 3}" * 64) for t in range(9)]
    assert received(*sent) == sent
    assert [len(frame) > 34 for frame in frames(*sent)] == [True, False, False] * 3


def test_a_new_stream_names_the_record_again() -> None:
    reader = PushReader(SENDER, 10)
    (_, second) = frames(a_message(), a_message(round=8))
    with pytest.raises(RemoteProtocolError, match="does not name its record, and neither did one before it"):
        reader.feed(second)


def test_only_frames_with_long_headers_may_have_records() -> None:
    short, long = frames(a_message(bytes(1000))), frames(a_message(records=a_plan(1).records))
    assert [may_have_records(frame) for frame in (*short, *long, b"")] == [False, True, False]


# --- what is refused


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ([header(11)], "a payload of 11 bytes; this model's is at most 10"),
        ([header(0, bytes(11))], "a payload of 11 bytes; this model's is at most 10"),
        ([header(3, b"four")], "longer than its header announces"),
        ([header(3, b"tw"), part(b"oh")], "a part of a payload has 2 bytes, expected 3"),
        ([part(b"x")], "unexpected frame: a part of no payload"),
        ([header(1, b"x"), part(b"x")], "unexpected frame: a part of no payload"),
        ([header(), b""], "unexpected frame: a part of no payload"),
        ([peer_pb2.PushRequest(hello=SENDER.to_wire()).SerializeToString()], "unexpected frame: neither"),
        ([header() + b"\x20\x01"], "unexpected frame: neither"),
        ([b"\x12\x05\x08"], "a field is longer than the frame"),
        ([b"\x1a"], "a field is longer than the frame"),
        ([b"\x1a" + b"\xff" * 9], "a field is longer than the frame"),
        ([b"\x12\x01\xff"], "its header cannot be decoded"),
        ([header(u=[1.0, math.nan])], "not finite"),
        ([header(u=[-math.inf])], "not finite"),
        ([header(weight_parts=0, weight=math.inf)], "not finite"),
        ([header(weight=0.5)], "a weight of 1/2 and 0.5"),
        ([header(weight_parts=65_537)], "a weight of 1/65537 and 0.0"),
        ([header(digest=b"short")], "a digest of 5 bytes, expected 32"),
        ([header(digest=b"")], "does not name its record"),
        ([header(), header(digest=b"", number=1)], "does not name its record"),
        ([header(records=[b"{"])], "malformed plan record"),
        ([header(records=[b"[]"])], "malformed plan record"),
        ([header(records=[b"\xff"])], "malformed plan record"),
        ([header(records=[b"{}"] * 16_385)], "16385 records in one message: at most 16384"),
        ([header(records=[b" " * 65_537])], "a record of 65537 bytes: at most 65536 are allowed"),
    ],
)
def test_invalid_frames_are_refused(sent: list[bytes], text: str) -> None:
    reader = PushReader(SENDER, max_payload_bytes=10)
    with pytest.raises(RemoteProtocolError, match=text):
        for frame in sent:
            reader.feed(frame)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_message_or_refused(data: bytes) -> None:
    reader = PushReader(SENDER, max_payload_bytes=10)
    with suppress(RemoteProtocolError):
        reader.feed(data)


def test_the_end_comes_after_whole_pushes_only() -> None:
    assert peer_pb2.PushRequest(done=True).SerializeToString() == DONE
    reader = PushReader(SENDER, 4_000_000)
    first, *others = frames(a_message(bytes(CHUNK_BYTES + 1)))
    reader.feed(first)
    with pytest.raises(RemoteProtocolError, match="the end within a payload"):
        reader.end()
    assert [reader.feed(frame) is not None for frame in others] == [True]
    reader.end()


def test_a_header_within_a_payload_is_refused() -> None:
    reader = PushReader(SENDER, max_payload_bytes=2 * CHUNK_BYTES)
    reader.feed(frames(a_message(bytes(2 * CHUNK_BYTES)))[0])
    with pytest.raises(RemoteProtocolError, match="a header within a payload"):
        reader.feed(header())
