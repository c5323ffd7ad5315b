"""Hostile bytes are refused or harmless, and make the decoder allocate little."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.codec import decode, encode, max_bytes
from edgenode.core.algorithm.compression import (
    Compressor,
    Layout,
)
from edgenode.errors import RemoteProtocolError
from tests.core.algorithm.payloads import COMPRESSORS, SMALL, a_payload, refuse, resealed, sealed


def refuse_or_read_sound(data: bytes, layout: Layout) -> None:
    """A payload that decodes can be mixed: its positions fit and its numbers are finite."""
    try:
        payload = decode(data, layout)
    except RemoteProtocolError:
        return
    assert len(payload.numbers) == payload.counts.sum() <= layout.size
    if payload.indices is not None:
        assert (np.diff(payload.indices) > 0).all()
        owners = np.searchsorted(layout.offsets, payload.indices, side="right") - 1
        assert np.array_equal(np.bincount(owners, minlength=len(layout.sizes)), payload.counts)
    assert np.isfinite(payload.dense(layout.size)).all()


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_payload_truncated_anywhere_is_refused(compressor: Compressor) -> None:
    data = encode(a_payload(compressor, SMALL), SMALL)
    for length in range(len(data)):
        refuse(data[:length], SMALL)
        if length >= 18:
            refuse(resealed(data[:length]), SMALL)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_payload_with_appended_bytes_is_refused(compressor: Compressor) -> None:
    data = encode(a_payload(compressor, SMALL), SMALL)
    for more in (b"\0", b"\xff" * 5):
        refuse(data + more, SMALL, "in its header")
        refuse(resealed(data + more), SMALL, "left over")


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_flipped_bit_is_refused(compressor: Compressor) -> None:
    data = encode(a_payload(compressor, SMALL), SMALL)
    for bit in range(8 * len(data)):
        refuse(flipped(data, bit), SMALL)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_flipped_bit_with_valid_checksum_is_harmless(compressor: Compressor) -> None:
    data = encode(a_payload(compressor, SMALL), SMALL)
    for bit in range(8 * len(data)):
        refuse_or_read_sound(resealed(flipped(data, bit)), SMALL)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(
    st.binary(max_size=80),
    st.integers(0, 60),
    st.integers(0, 20),
    st.sampled_from([1, 2, 3, 5, 8, 16, 32]),
    st.booleans(),
)
def test_any_body_is_refused_or_harmless(body: bytes, entries: int, unary: int, bits: int, sparse: bool) -> None:
    refuse_or_read_sound(sealed(1, bits | sparse << 7, entries, unary, body), SMALL)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(data: bytes) -> None:
    refuse(data, SMALL)


def test_another_version_is_refused_by_its_number() -> None:
    refuse(sealed(2, 32, 0, 0, b""), SMALL, "payload version 2, expected 1")


def test_unknown_form_is_refused() -> None:
    for bits in set(range(128)) - {1, 2, 3, 4, 5, 8, 16, 32}:
        refuse(sealed(1, bits, SMALL.size, 0, bytes(4 * SMALL.size)), SMALL, "unknown value form")
        refuse(sealed(1, bits | 0x80, 0, 0, bytes(100)), SMALL, "unknown value form")


def test_wrong_length_or_checksum_is_refused() -> None:
    body = bytes(4 * SMALL.size)
    good = sealed(1, 32, SMALL.size, 0, body)
    for length in (0, 17, 18, len(good) - 1, len(good) + 1, 2**32 - 1):
        refuse(good[:10] + struct.pack("<I", length) + good[14:], SMALL, "in its header")
    refuse(flipped(good, 8 * 14), SMALL, "checksum does not match")
    refuse(flipped(good, 8 * 20), SMALL, "checksum does not match")


def test_more_entries_than_parameters_are_refused() -> None:
    refuse(sealed(1, 0x80 | 8, SMALL.size + 1, 1, bytes(1000)), SMALL, "50 entries")
    refuse(sealed(1, 0x80 | 8, 1, 8, bytes(1000)), SMALL, "8 unary bytes for a model of 49")
    refuse(sealed(1, 0x80 | 8, 2**32 - 1, 2**32 - 1, bytes(1000)), SMALL, "4294967295 entries")


def test_malformed_dense_payload_is_refused() -> None:
    refuse(sealed(1, 32, SMALL.size - 1, 0, bytes(4 * SMALL.size - 4)), SMALL, "a dense payload of 48 entries")
    refuse(sealed(1, 32, SMALL.size, 1, bytes(4 * SMALL.size + 1)), SMALL, "a dense payload")


def tables(counts: list[int], parameters: list[int]) -> bytes:
    """For tensors of 1 and 8 entries: fields of 1 and 4 bits, then two of 5; 15 bits."""
    text = f"{counts[0]:01b}{counts[1]:04b}{parameters[0]:05b}{parameters[1]:05b}0"
    return int(text, 2).to_bytes(2)


@pytest.mark.parametrize(
    ("entries", "body", "reason"),
    [
        (2, tables([1, 0], [0, 0]) + b"\xc0" + bytes(8), "do not add up"),
        (1, tables([1, 1], [0, 0]) + b"\x80" + bytes(4), "do not add up"),
        (9, tables([0, 9], [0, 0]) + b"\xff" + bytes(36), "do not add up"),
        (2, tables([1, 1], [0, 0]) + b"\x80" + bytes(8), "holds 1 entries, expected 2"),
        (1, tables([0, 1], [0, 0]) + b"\xc0" + bytes(4), "holds 2 entries, expected 1"),
        (1, tables([0, 1], [0, 0]) + b"\x00" + bytes(4), "holds 0 entries, expected 1"),
        (0, tables([0, 0], [0, 0]) + b"\x00", "holds 0 entries, expected 0"),
        (1, tables([1, 0], [0, 0]) + b"\x40" + bytes(4), "out of range"),
        (1, tables([0, 1], [4, 4]) + b"\x80" + b"\x80" + bytes(4), "out of range"),
        (2, tables([0, 2], [0, 2]) + b"\x60" + b"\xc0" + bytes(8), "out of range"),
        (1, tables([0, 1], [0, 31]) + b"\x01" + b"\xff" * 4 + bytes(4), "out of range"),
        (1, tables([0, 1], [0, 0]) + b"\x80", "truncated: 4 bytes wanted, 0 left"),
    ],
)
def test_inconsistent_entries_are_refused(entries: int, body: bytes, reason: str) -> None:
    refuse(sealed(1, 0x80 | 32, entries, 1, body), Layout((1, 8)), reason)


def test_last_index_is_in_range() -> None:
    body = tables([0, 1], [0, 0]) + b"\x01" + struct.pack("<f", 1.5)
    assert decode(sealed(1, 0x80 | 32, 1, 1, body), Layout((1, 8))).dense(9).tolist() == [0] * 8 + [1.5]


@pytest.mark.parametrize("number", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF])
def test_infinite_or_nan_value_is_refused(number: int) -> None:
    refuse(sealed(1, 32, 2, 0, struct.pack("<2I", 0, number)), Layout((2,)), "a value is not finite")
    if number & 0xFFFF == 0 or number == 0xFFFFFFFF:
        refuse(sealed(1, 16, 2, 0, struct.pack("<2H", 0, number >> 16)), Layout((2,)), "a value is not finite")


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -1e-45, 3.4e38])
def test_scale_without_finite_values_is_refused(bits: int, scale: float) -> None:
    codes = bytes((2 * bits + 7) // 8)
    refuse(sealed(1, bits, 2, 0, struct.pack("<f", scale) + codes), Layout((2,)), "scale")


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0])
def test_sign_with_a_scale_that_is_not_finite_is_refused(scale: float) -> None:
    refuse(sealed(1, 1, 2, 0, struct.pack("<f", scale) + b"\0"), Layout((2,)), "scale")


def test_sign_is_one_bit_which_is_set_for_minus() -> None:
    body = struct.pack("<f", 0.5) + bytes([0b01100000])
    assert decode(sealed(1, 1, 3, 0, body), Layout((3,))).numbers.tolist() == [0.5, -0.5, -0.5]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_largest_scale_still_gives_finite_values(bits: int) -> None:
    scale = np.finfo(np.float32).max / (1 << (bits - 1))
    codes = np.packbits(np.array([0, *[1] * (bits - 1), *[1] * bits], dtype=np.uint8)).tobytes()
    numbers = decode(sealed(1, bits, 2, 0, struct.pack("<f", scale) + codes), Layout((2,))).numbers
    assert numbers.tolist() == [scale * ((1 << (bits - 1)) - 1), -scale]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_lowest_integer_is_refused(bits: int) -> None:
    codes = np.packbits(np.array([1] + [0] * (bits - 1), dtype=np.uint8)).tobytes()
    refuse(sealed(1, bits, 1, 0, struct.pack("<f", 1) + codes), Layout((1,)), "an integer value is out of range")


# --- allocation


def peak_bytes(data: bytes, layout: Layout) -> int:
    tracemalloc.start()
    try:
        refuse_or_drop(data, layout)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refuse_or_drop(data: bytes, layout: Layout) -> None:
    try:
        decode(data, layout)
    except RemoteProtocolError:
        return


@pytest.mark.parametrize("unary", [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("entries", [0, 1_000_000, 2**32 - 1])
@pytest.mark.parametrize("form", [1, 2, 5, 8, 32, 0x82, 0x85, 0x88, 0xA0])
def test_short_message_allocates_little(form: int, entries: int, unary: int) -> None:
    assert peak_bytes(sealed(1, form, entries, unary, b"\xff" * 200), Layout((1_000_000,))) < 100_000


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55"])
@pytest.mark.parametrize("form", [1, 2, 5, 8, 32, 0x82, 0x85, 0x88, 0xA0])
def test_hostile_message_of_full_size_allocates_little(form: int, fill: bytes) -> None:
    layout = Layout((20_000,))
    body = fill * (max_bytes(layout) - 18)
    for entries in (0, 20_000):
        for unary in (0, 2500, len(body)):
            assert peak_bytes(sealed(1, form, entries, unary, body), layout) < 20 * max_bytes(layout)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_valid_message_allocates_little(compressor: Compressor) -> None:
    layout = Layout((1, 20_000, 7))
    assert peak_bytes(encode(a_payload(compressor, layout), layout), layout) < 25 * max_bytes(layout)
