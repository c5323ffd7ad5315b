"""Hostile bytes are refused or harmless, and make the decoder allocate little."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm.codec import decode, encode, max_bytes
from edgenode.core.algorithm.compression import Compressor, Layout
from edgenode.errors import RemoteProtocolError
from tests.core.algorithm.payloads import COMPRESSORS, FORMS, HEADER, SMALL, SPARSE, a_payload, refuse, resealed, sealed


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
        if length >= HEADER:
            refuse(resealed(data[:length]), SMALL)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_payload_with_appended_bytes_is_refused(compressor: Compressor) -> None:
    data = encode(a_payload(compressor, SMALL), SMALL)
    for more in (b"\0", b"\xff" * 5):
        refuse(data + more, SMALL, "checksum does not match")
        refuse(resealed(data + more), SMALL, "unary|for all values")


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


@given(st.binary(max_size=80), st.integers(0, 15), st.booleans())
def test_any_body_is_refused_or_harmless(body: bytes, form: int, sparse: bool) -> None:
    refuse_or_read_sound(sealed(form | sparse * SPARSE, body), SMALL)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(data: bytes) -> None:
    refuse(data, SMALL)


def test_another_version_is_refused_by_its_number() -> None:
    refuse(sealed(0, b"", version=2), SMALL, "payload version 2, expected 4")


def test_unknown_form_is_refused() -> None:
    for form in set(range(16)) - set(FORMS.values()):
        refuse(sealed(form, bytes(4 * SMALL.size)), SMALL, f"unknown value form {form}")
        refuse(sealed(form | SPARSE, bytes(100)), SMALL, f"unknown value form {form}")


def test_wrong_checksum_is_refused() -> None:
    good = sealed(FORMS["float32"], bytes(4 * SMALL.size))
    for at in range(1, len(good)):
        refuse(flipped(good, 8 * at), SMALL, "checksum does not match")


def test_more_entries_than_parameters_are_refused() -> None:
    refuse(sealed(SPARSE | FORMS[8], b"\xff" * 1000), SMALL, "4294967295 entries for a model of 49")
    refuse(sealed(SPARSE, count(1, 0) + bytes(4) + b"\x80" + bytes(8)), Layout((9,)), "9 unary bytes for a model of 9")


def test_dense_payload_of_another_length_is_refused() -> None:
    refuse(sealed(FORMS["float32"], bytes(4 * SMALL.size - 4)), SMALL, "192 bytes for all values of 49, expected 196")
    refuse(sealed(FORMS["float32"], bytes(4 * SMALL.size + 1)), SMALL, "197 bytes for all values of 49, expected 196")
    refuse(sealed(FORMS["fitted2"], bytes(20)), SMALL, "20 bytes for all values of 49, expected 21")


def deflated(codes: bytes, **how: int) -> bytes:
    deflate = zlib.compressobj(wbits=-15, **how)
    return deflate.compress(codes) + deflate.flush()


@pytest.mark.parametrize("entries", [48, 50, 5000])
def test_huffman_code_of_another_length_is_refused(entries: int) -> None:
    scales, codes = struct.pack("<4f", 1, 1, 1, 1), deflated(bytes(entries), strategy=zlib.Z_HUFFMAN_ONLY)
    refuse(sealed(FORMS["coded"], scales + codes), SMALL, "a Huffman code of .* values or more, expected 49")
    sparse = count(49, 0) + scales + codes + b"\xff" * 6 + b"\x80"
    refuse(sealed(FORMS["coded"] | SPARSE, sparse), SMALL, "a Huffman code of .* values or more, expected 49")


def test_damaged_or_unfinished_huffman_code_is_refused() -> None:
    scales, codes = struct.pack("<4f", 1, 1, 1, 1), deflated(bytes(range(49)))
    refuse(sealed(FORMS["coded"], scales + b"\x07" + codes), SMALL, "a Huffman code is damaged")
    refuse(sealed(FORMS["coded"], scales + codes[:-1]), SMALL, "a Huffman code of 49 values or more")
    refuse(sealed(FORMS["coded"], scales + codes + b"\0"), SMALL, "1 bytes too many for all values of 49")


def test_code_of_few_bytes_for_a_large_model_is_refused_before_it_is_read() -> None:
    """A deflate stream may repeat what it has: a thousandth of the model's bytes would decode to all of it."""
    layout = Layout((10_000_000,))
    bomb = deflated(bytes(layout.size))
    assert len(bomb) < 10_000
    data = sealed(FORMS["coded"], struct.pack("<f", 1) + bomb)
    refuse(data, layout, "bytes for all values of 10000000, expected 1250004")
    assert peak_bytes(data, layout) < 200_000
    refuse(sealed(FORMS["coded"] | SPARSE, count(layout.size, 0) + bomb), layout, "truncated")


def count(entries: int, k: int) -> bytes:
    return struct.pack("<IB", entries, k)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (count(10, 0) + bytes(40) + b"\xff", "10 entries for a model of 9"),
        (count(1, 32) + bytes(40), "a Rice parameter of 32, at most 31"),
        (count(2, 0) + bytes(8) + b"\x80", "holds 1 entries, expected 2"),
        (count(1, 0) + bytes(4) + b"\xc0", "holds 2 entries, expected 1"),
        (count(1, 0) + bytes(4) + b"\x00", "holds 0 entries, expected 1"),
        (count(0, 0) + b"\x00", "holds 0 entries, expected 0"),
        (count(1, 0) + bytes(4) + b"\x00\x40", "out of range"),
        (count(1, 4) + b"\x90" + bytes(4) + b"\x80", "out of range"),
        (count(2, 2) + b"\xc0" + bytes(8) + b"\x30", "out of range"),
        (count(1, 31) + b"\xff" * 4 + bytes(4) + b"\x01", "out of range"),
        (count(1, 0)[:4], "truncated: 5 bytes wanted, 4 left"),
        (count(1, 0) + b"\x80", "truncated: 5 bytes wanted, 1 left"),
    ],
)
def test_inconsistent_entries_are_refused(body: bytes, reason: str) -> None:
    refuse(sealed(SPARSE | FORMS["float32"], body), Layout((1, 8)), reason)


def test_last_index_is_in_range() -> None:
    body = count(1, 0) + struct.pack("<f", 1.5) + b"\x00\x80"
    assert decode(sealed(SPARSE, body), Layout((1, 8))).dense(9).tolist() == [0] * 8 + [1.5]


@pytest.mark.parametrize("number", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF])
def test_infinite_or_nan_value_is_refused(number: int) -> None:
    refuse(sealed(FORMS["float32"], struct.pack("<2I", 0, number)), Layout((2,)), "a value is not finite")
    if number & 0xFFFF == 0 or number == 0xFFFFFFFF:
        refuse(sealed(FORMS["bfloat16"], struct.pack("<2H", 0, number >> 16)), Layout((2,)), "a value is not finite")


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -1e-45, 3.4e38])
def test_scale_without_finite_values_is_refused(bits: int, scale: float) -> None:
    codes = bytes((2 * bits + 7) // 8)
    refuse(sealed(FORMS[bits], struct.pack("<f", scale) + codes), Layout((2,)), "scale")


@pytest.mark.parametrize("form", ["fitted1", "fitted2", "fitted4"])
@pytest.mark.parametrize("scale", [0x7F80, 0xFF80, 0x7FC0, 0xBF80, 0x7F7F])  # infinite, NaN, -1 and 3.4e38
def test_fitted_scale_without_finite_values_is_refused(form: str, scale: int) -> None:
    if (form, scale) != ("fitted1", 0x7F7F):
        refuse(sealed(FORMS[form], struct.pack("<H", scale) + bytes(1)), Layout((2,)), "scale")


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0])
def test_sign_with_a_scale_that_is_not_finite_is_refused(scale: float) -> None:
    refuse(sealed(FORMS[1], struct.pack("<f", scale) + b"\0"), Layout((2,)), "scale")


def test_sign_is_one_bit_which_is_set_for_minus() -> None:
    body = struct.pack("<f", 0.5) + bytes([0b01100000])
    assert decode(sealed(FORMS[1], body), Layout((3,))).numbers.tolist() == [0.5, -0.5, -0.5]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_largest_scale_still_gives_finite_values(bits: int) -> None:
    scale = np.finfo(np.float32).max / (1 << (bits - 1))
    codes = np.packbits(np.array([0, *[1] * (bits - 1), *[1] * bits], dtype=np.uint8)).tobytes()
    numbers = decode(sealed(FORMS[bits], struct.pack("<f", scale) + codes), Layout((2,))).numbers
    assert numbers.tolist() == [scale * ((1 << (bits - 1)) - 1), -scale]


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
def test_lowest_integer_is_refused(bits: int) -> None:
    codes = np.packbits(np.array([1] + [0] * (bits - 1), dtype=np.uint8)).tobytes()
    refuse(sealed(FORMS[bits], struct.pack("<f", 1) + codes), Layout((1,)), "an integer value is out of range")


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


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55"])
@pytest.mark.parametrize("form", [*FORMS.values(), *(form | SPARSE for form in FORMS.values())])
def test_short_message_allocates_little(form: int, fill: bytes) -> None:
    assert peak_bytes(sealed(form, fill * 200), Layout((1_000_000,))) < 100_000


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("announced", [1, 500_000, 999_999])
def test_announced_entries_allocate_little(form: int, announced: int) -> None:
    assert peak_bytes(sealed(form | SPARSE, count(announced, 0) + b"\xff" * 200), Layout((1_000_000,))) < 100_000


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x55"])
@pytest.mark.parametrize("form", [*FORMS.values(), *(form | SPARSE for form in FORMS.values())])
def test_hostile_message_of_full_size_allocates_little(form: int, fill: bytes) -> None:
    layout = Layout((20_000,))
    for entries in (0, 1000, 20_000):
        body = (count(entries, 0) if form & SPARSE else b"") + fill * max_bytes(layout)
        assert peak_bytes(sealed(form, body[: max_bytes(layout) - HEADER]), layout) < 20 * max_bytes(layout)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_valid_message_allocates_little(compressor: Compressor) -> None:
    layout = Layout((1, 20_000, 7))
    assert peak_bytes(encode(a_payload(compressor, layout), layout), layout) < 25 * max_bytes(layout)
