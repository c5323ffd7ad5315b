"""Payload <-> bytes. ``decode`` reads untrusted bytes, and checks every length before it uses it.

The bytes do not say which block of the model a payload belongs to. Both ends know it from the round, and pass the
layout of that block.

    header   form u8, CRC-32 u32 of all other bytes
    tables   (sparse) entries per tensor in bit_length(size) bits each, Rice parameters in 5 bits each
    low      (sparse) the k low bits of each gap
    scales   per tensor, for integers float32, for fitted values bfloat16
    values   float32, bfloat16, integers of 2, 3, 4, 5 or 8 bits, signs of 1 bit, which is set for -1,
             or fitted values of 1, 2 or 4 bits
    unary    (sparse) per entry gap >> k zeros, then a one; all bytes that are left

The form holds the version in its upper 3 bits, whether positions are sent in the next, and the values in the lower 4.
Everything else follows from the layout and the tables, so the header has no lengths.

Positions are Rice-coded:

1. An index becomes its gap to the previous index of its tensor, less one. The first gap counts from the tensor's start.
2. A gap g is split, with a parameter k per tensor, into g >> k in unary and the k low bits of g.
3. Unary codes and low bits are separate streams, so that both directions take a few array operations for any number of
   tensors.

At 1 % density this costs 8.11 bits per index, where the entropy is 8.08.

Invariants: ``decode(encode(p)) == p``, and equal payloads have equal bytes. Gaps are not negative, so the decoded
indices of a tensor are strictly increasing and cannot repeat. The work and memory of ``decode`` are bounded by the
bytes received and the size of the model, whatever the header claims.

A compressor may bring a format of its own. ``decode_as`` holds it to the same promises.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.compression import LEVELS, Floats, Ints, Layout, Payload, PayloadFormat, Values
from edgenode.errors import RemoteProtocolError

VERSION = 2
_HEADER = struct.Struct("<BI")
_SPARSE = 0x10
_VALUES = (  # bits, and whether they are fitted
    (32, False), (16, False), (8, False), (1, False), (2, False), (3, False), (4, False), (5, False),
    (1, True), (2, True), (4, True),
)  # fmt: skip
_PARAMETER_BITS = 5
Bits = NDArray[np.uint8]


def encode(payload: Payload, layout: Layout) -> bytes:
    """The bytes of a payload."""
    values = payload.values
    parts: list[bytes] = []
    unary = b""
    form = VERSION << 5 | _VALUES.index((values.bits, values.fitted))
    if payload.indices is not None:
        gaps = _gaps(payload.indices, payload.counts, layout)
        parameters = _rice_parameters(gaps, payload.counts)
        widths = np.repeat(parameters, payload.counts)
        ones = np.cumsum((gaps >> widths) + 1) - 1
        stream = np.zeros(int(ones[-1]) + 1 if len(ones) else 0, dtype=np.uint8)
        stream[ones] = 1
        unary = np.packbits(stream).tobytes()
        form |= _SPARSE
        table_widths = np.concatenate([_count_widths(layout), np.full(len(parameters), _PARAMETER_BITS)])
        parts.append(_pack(np.concatenate([payload.counts, parameters]), table_widths))
        parts.append(_pack(gaps & ((1 << widths) - 1), widths))
    if values.scales is not None:
        scales = values.scales.astype("<f4")
        parts.append((scales.view("<u4") >> 16).astype("<u2").tobytes() if values.fitted else scales.tobytes())
    parts.append(_pack_codes(values))
    body = b"".join([*parts, unary])
    return _HEADER.pack(form, _checksum(form, body)) + body


def decode(data: bytes, layout: Layout) -> Payload:
    """The payload of received bytes.

    Raises:
        RemoteProtocolError: a wrong version or checksum, truncated or additional bytes, an index out of range, or a
            value or scale that is not finite.
    """
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(f"a payload of {len(data)} bytes is shorter than its header")
    form, checksum = _HEADER.unpack_from(data)
    body = memoryview(data)[_HEADER.size :]
    if form >> 5 != VERSION:
        raise RemoteProtocolError(f"payload version {form >> 5}, expected {VERSION}")
    if checksum != _checksum(form, body):
        raise RemoteProtocolError("payload checksum does not match")
    if form & 0xF >= len(_VALUES):
        raise RemoteProtocolError(f"unknown value form {form & 0xF}")
    bits, fitted = _VALUES[form & 0xF]
    reader = _Reader(body)
    if form & _SPARSE:
        counts, parameters = _read_tables(reader, bits, layout)
        widths = np.repeat(parameters, counts)
        low = _unpack(reader, widths)
        values = _read_values(reader, counts, bits, fitted)
        indices = _indices(_read_quotients(reader, len(widths), layout), widths, low, counts, layout)
        return Payload(counts, indices, values)
    counts = np.asarray(layout.sizes, dtype=np.int64)
    expected = _scale_bytes(bits, fitted) * len(counts) + (layout.size * bits + 7) // 8
    if reader.left != expected:
        raise RemoteProtocolError(f"{reader.left} bytes for all values of {layout.size}, expected {expected}")
    return Payload(counts, None, _read_values(reader, counts, bits, fitted))


def max_bytes(layout: Layout) -> int:
    """An upper bound of the encoded size for this model: 4 bytes per value, and 2 bits per parameter for positions."""
    tensors = len(layout.sizes)
    return _HEADER.size + 4 + 9 * tensors + 4 * layout.size + layout.size // 4


def decode_as(payload_format: PayloadFormat | None, data: bytes, layout: Layout) -> Payload:
    """The payload of received bytes in a compressor's format, checked as those of ``decode``.

    Raises:
        RemoteProtocolError: the bytes are too long, the format does not decode them, or the payload is not sound.
    """
    if payload_format is None:
        return decode(data, layout)
    if len(data) > payload_format.max_bytes(layout):
        raise RemoteProtocolError(f"a payload of {len(data)} bytes, at most {payload_format.max_bytes(layout)}")
    try:
        payload = payload_format.decode(data, layout)
        sound = _is_sound(payload, layout)
    except Exception as exc:
        raise RemoteProtocolError(f"a payload cannot be decoded: {type(exc).__name__}: {exc}") from exc
    if not sound:
        raise RemoteProtocolError("a payload has positions or numbers that do not fit the model")
    return payload


def _is_sound(payload: Payload, layout: Layout) -> bool:
    """Whether a payload can be mixed: positions increase within their tensors, and numbers are finite."""
    counts, sizes, numbers = payload.counts, np.asarray(layout.sizes), payload.numbers
    if counts.shape != sizes.shape or numbers.shape != (counts.sum(),) or not np.isfinite(numbers).all():
        return False
    if payload.indices is None:
        return bool((counts == sizes).all())
    owners = np.repeat(np.arange(len(counts)), counts)
    if not np.issubdtype(payload.indices.dtype, np.integer):
        return False
    inside = (payload.indices >= layout.offsets[owners]) & (payload.indices < layout.offsets[owners + 1])
    return bool(inside.all() and (np.diff(payload.indices) > 0).all())


class _Reader:
    """A cursor over a buffer. Raises RemoteProtocolError instead of reading past the end."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def require(self, count: int) -> None:
        if count > self.left:
            raise RemoteProtocolError(f"payload is truncated: {count} bytes wanted, {self.left} left")

    def take(self, count: int) -> NDArray[np.uint8]:
        self.require(count)
        self._at += count
        return np.frombuffer(self._data, dtype=np.uint8, count=count, offset=self._at - count)


def _checksum(form: int, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(bytes([form])))


def _count_widths(layout: Layout) -> Ints:
    return np.fromiter((size.bit_length() for size in layout.sizes), dtype=np.int64, count=len(layout.sizes))


def _owners(counts: Ints) -> Ints:
    """The tensor that each entry belongs to, [k]."""
    return np.repeat(np.arange(len(counts)), counts)


def _gaps(indices: Ints, counts: Ints, layout: Layout) -> Ints:
    """Distance from each index to the one before it in its tensor, less one; [k]."""
    local = indices - layout.offsets[_owners(counts)]
    previous = np.empty_like(local)
    previous[1:] = local[:-1]
    previous[(np.cumsum(counts) - counts)[counts > 0]] = -1
    return local - previous - 1


def _rice_parameters(gaps: Ints, counts: Ints) -> Ints:
    """The cheapest parameter of each tensor among the three nearest to log2 of its mean gap, [tensors]."""
    owners = _owners(counts)
    entries = np.maximum(counts, 1)
    mean = np.bincount(owners, weights=gaps, minlength=len(counts)) / entries
    guess = np.floor(np.log2(mean + 1)).astype(np.int64)
    candidates = np.clip(guess + np.array([[-1], [0], [1]]), 0, 2**_PARAMETER_BITS - 1)
    costs = [np.bincount(owners, weights=gaps >> k[owners], minlength=len(counts)) + counts * k for k in candidates]
    cheapest: Ints = candidates[np.argmin(costs, axis=0), np.arange(len(counts))]
    return cheapest


def _pack(numbers: Ints, widths: Ints) -> bytes:
    """Pack numbers of the given bit widths. They are grouped by width, so that each group is one matrix of bits."""
    groups = [
        ((numbers[widths == width, None] >> np.arange(width - 1, -1, -1)) & 1).astype(np.uint8).ravel()
        for width in np.unique(widths[widths > 0])
    ]
    return np.packbits(np.concatenate(groups)).tobytes() if groups else b""


def _unpack(reader: _Reader, widths: Ints) -> Ints:
    """The inverse of ``_pack`` for known widths. ``take`` fails first if the bytes are not there."""
    total = int(widths.sum())
    stream = np.unpackbits(reader.take((total + 7) // 8), count=total)
    numbers = np.zeros(len(widths), dtype=np.int64)
    at = 0
    for width in np.unique(widths[widths > 0]).tolist():
        chosen = widths == width
        taken = int(chosen.sum()) * width
        block = stream[at : at + taken].reshape(-1, width)
        at += taken
        for column in range(width):
            numbers[chosen] = (numbers[chosen] << 1) | block[:, column]
    return numbers


def _read_tables(reader: _Reader, bits: int, layout: Layout) -> tuple[Ints, Ints]:
    """Entries and Rice parameter of each tensor. The bytes that they announce are there."""
    tensors = len(layout.sizes)
    table = _unpack(reader, np.concatenate([_count_widths(layout), np.full(tensors, _PARAMETER_BITS)]))
    counts, parameters = table[:tensors], table[tensors:]
    if (counts > layout.sizes).any():
        raise RemoteProtocolError("more entries than parameters in a tensor")
    # each entry takes its low bits, its value, and at least one bit of unary code
    reader.require(int((counts * (parameters + bits + 1)).sum() + 7) // 8)
    return counts, parameters


def _read_quotients(reader: _Reader, entries: int, layout: Layout) -> Ints:
    """The unary stream, which is all that is left, as numbers [entries]."""
    if 8 * reader.left - 7 > layout.size:  # it has at most one bit per parameter
        raise RemoteProtocolError(f"{reader.left} unary bytes for a model of {layout.size}")
    stream = np.unpackbits(reader.take(reader.left))
    ones = np.flatnonzero(stream)
    if len(ones) != entries or (len(stream) - (ones[-1] + 1 if entries else 0)) >= 8:
        raise RemoteProtocolError(f"the unary stream holds {len(ones)} entries, expected {entries}")
    return np.diff(ones, prepend=-1) - 1


def _indices(quotients: Ints, widths: Ints, low: Ints, counts: Ints, layout: Layout) -> Ints:
    """The flat positions [k], from the parts of their gaps."""
    gaps = (quotients << widths) + low
    owners = _owners(counts)
    limits = np.asarray(layout.sizes, dtype=np.int64)[owners]
    ends = np.cumsum(gaps + 1)
    firsts = (np.cumsum(counts) - counts)[owners]
    local = ends - np.concatenate([[0], ends])[firsts] - 1 if len(gaps) else ends
    if (local >= limits).any():
        raise RemoteProtocolError("an index is out of range")
    return local + layout.offsets[owners]


def _pack_codes(values: Values) -> bytes:
    codes, bits = values.codes, values.bits
    match bits:
        case 32:
            return codes.astype("<f4").tobytes()
        case 16:
            return codes.astype("<u2").tobytes()
        case 8:
            return codes.astype(np.int8).tobytes()
        case 1 if not values.fitted:
            return np.packbits(codes < 0).tobytes()  # type: ignore[operator]  # integers
    return _pack(codes.astype(np.int64) & ((1 << bits) - 1), np.full(len(codes), bits))


def _read_values(reader: _Reader, counts: Ints, bits: int, fitted: bool) -> Values:
    entries = int(counts.sum())
    if bits >= 16:
        raw = reader.take(entries * bits // 8)
        codes = raw.view("<f4") if bits == 32 else raw.view("<u2")
        values = Values(codes, bits)
        if not np.isfinite(values.decode(np.zeros(0, dtype=np.int64))).all():
            raise RemoteProtocolError("a value is not finite")
        return values
    scales = _read_scales(reader, len(counts), bits, fitted)
    if bits == 8:
        levels = reader.take(entries).view(np.int8)
    else:
        plain = _unpack(reader, np.full(entries, bits))
        if fitted:
            return Values(plain.astype(np.uint8), bits, scales, fitted=True)
        if bits == 1:
            return Values(1 - 2 * plain.astype(np.int8), bits, scales)
        levels = (plain - ((plain >> (bits - 1)) << bits)).astype(np.int8)
    if (levels == -(1 << (bits - 1))).any():
        raise RemoteProtocolError("an integer value is out of range")
    return Values(levels, bits, scales)


def _scale_bytes(bits: int, fitted: bool) -> int:
    """Of the scale of one tensor."""
    return 0 if bits >= 16 else 2 if fitted else 4


def _read_scales(reader: _Reader, tensors: int, bits: int, fitted: bool) -> Floats:
    largest = float(LEVELS[bits][-1]) if fitted else 1 << (bits - 1)
    raw = reader.take(_scale_bytes(bits, fitted) * tensors)
    scales = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32) if fitted else raw.view("<f4")
    if not ((scales >= 0) & (scales <= np.finfo(np.float32).max / max(largest, 1))).all():
        raise RemoteProtocolError("a scale is negative, or its values are not finite")
    return scales
