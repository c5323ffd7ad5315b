"""Payload <-> bytes. ``decode`` reads untrusted bytes, and checks every length before it uses it.

The bytes do not say which block of the model a payload belongs to. Both ends know it from the round, and pass the
layout of that block.

    header   form u8, CRC-32 u32 of all other bytes
    count    (sparse) entries u32, Rice parameter k u8
    low      (sparse) the k low bits of each gap
    scales   per tensor, for integers float32, for fitted values bfloat16
    values   float32, bfloat16, integers of 2, 3, 4, 5 or 8 bits, signs of 1 bit, which is set for -1,
             fitted values of 1, 2 or 4 bits, or integers of 8 bits in a Huffman code
    unary    (sparse) per entry gap >> k zeros, then a one; all bytes that are left

The form holds the version in its upper 3 bits, whether positions are sent in the next, and the values in the lower 4.
Everything else follows from the layout and the count, so the header has no lengths.

Positions are Rice-coded, as one stream for the flat vector:

1. An index becomes its gap to the previous index, less one. The first gap counts from the start.
2. A gap g is split, with one parameter k, into g >> k in unary and the k low bits of g.
3. Unary codes and low bits are separate streams, so that both directions take a few array operations.
4. The entries of each tensor follow from the positions.

Top-k keeps the same share of all tensors, and a single entry of small ones. A table of entries and parameters per
tensor would take almost two bits more for each entry of a ResNet-20 at 0.1 % than one parameter for all. Random
quantisation keeps different shares, and would take 2 to 4 % less with such a table.

At 1 % density this costs 8.11 bits per index, where the entropy is 8.08.

Integers of 8 bits are sent in a Huffman code if that is shorter. It is a deflate stream without matches (RFC 1951),
which states its code, and where it ends. A value takes at least one bit of it. So a stream with matches, of which a
thousandth of the bytes would do, is refused before it is read.

Invariants: ``decode(encode(p)) == p``, and equal payloads have equal bytes, with one version of zlib. Gaps are not
negative, so the decoded indices are strictly increasing and cannot repeat. The work and memory of ``decode`` are
bounded by the bytes received and the size of the model, whatever the header claims.

A compressor may bring a format of its own. ``decode_as`` holds it to the same promises.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.bit_packing import pack, packed_bytes, unpack
from edgenode.core.algorithm.compression import LEVELS, Floats, Ints, Layout, Payload, PayloadFormat, Values
from edgenode.errors import RemoteProtocolError

VERSION = 4
_HEADER = struct.Struct("<BI")
_COUNT = struct.Struct("<IB")
_SPARSE = 0x10
_VALUES = (  # bits, and whether they are fitted
    (32, False), (16, False), (8, False), (1, False), (2, False), (3, False), (4, False), (5, False),
    (1, True), (2, True), (4, True),
)  # fmt: skip
_CODED = len(_VALUES)  # integers of 8 bits in a Huffman code
_LARGEST_PARAMETER = 31


def encode(payload: Payload, layout: Layout) -> bytes:
    """The bytes of a payload."""
    values = payload.values
    parts: list[bytes | memoryview] = []
    unary = b""
    kind, codes = _VALUES.index((values.bits, values.fitted)), _pack_codes(values)
    if values.bits == 8 and len(huffman := _huffman(codes)) < len(codes):
        kind, codes = _CODED, huffman
    form = VERSION << 5 | kind
    if payload.indices is not None:
        form |= _SPARSE
        gaps = np.diff(payload.indices, prepend=-1) - 1
        k = _rice_parameter(gaps)
        parts += [_COUNT.pack(len(gaps), k), pack(gaps & ((1 << k) - 1), k)]
        unary = _unary(gaps >> k)
    if values.scales is not None:
        scales = values.scales.astype("<f4")
        parts.append((scales.view("<u4") >> 16).astype("<u2").tobytes() if values.fitted else scales.tobytes())
    parts.append(codes)
    parts.append(unary)
    return b"".join([_HEADER.pack(form, _checksum(form, *parts)), *parts])  # the only copy of float32 numbers


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
    kind = form & 0xF
    if kind > _CODED:
        raise RemoteProtocolError(f"unknown value form {kind}")
    coded = kind == _CODED
    bits, fitted = (8, False) if coded else _VALUES[kind]
    least = 1 if coded else bits
    reader = _Reader(body)
    if form & _SPARSE:
        entries, k = _read_count(reader, least, layout)
        low = unpack(reader.take(packed_bytes(entries, k)), entries, k)
        values = _read_values(reader, entries, len(layout.sizes), bits, fitted, coded)
        indices = _indices((_read_quotients(reader, entries, layout) << k) + low, layout)
        return Payload(np.diff(np.searchsorted(indices, layout.offsets)), indices, values)
    counts = np.asarray(layout.sizes, dtype=np.int64)
    expected = _scale_bytes(bits, fitted) * len(counts) + (layout.size * least + 7) // 8
    if reader.left < expected or (reader.left > expected and not coded):
        raise RemoteProtocolError(f"{reader.left} bytes for all values of {layout.size}, expected {expected}")
    values = _read_values(reader, layout.size, len(counts), bits, fitted, coded)
    if reader.left:
        raise RemoteProtocolError(f"{reader.left} bytes too many for all values of {layout.size}")
    return Payload(counts, None, values)


def max_bytes(layout: Layout) -> int:
    """An upper bound of the encoded size for this model: 4 bytes per value, and 2 bits per parameter for positions."""
    return _HEADER.size + _COUNT.size + 4 + 4 * len(layout.sizes) + 4 * layout.size + layout.size // 4


def decode_as(payload_format: PayloadFormat | None, data: bytes, layout: Layout) -> Payload:
    """The payload of received bytes in a compressor's format, checked as in ``decode``.

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
    """Return whether a payload can be mixed: positions increase within their tensors, and numbers are finite."""
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

    def take_coded(self, count: int) -> NDArray[np.uint8]:
        """So many values of a Huffman code, which ends after them."""
        inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            decoded = inflate.decompress(self._data[self._at :], count + 1)
        except zlib.error as exc:
            raise RemoteProtocolError(f"a Huffman code is damaged: {exc}") from exc
        if len(decoded) != count or not inflate.eof:
            raise RemoteProtocolError(f"a Huffman code of {len(decoded)} values or more, expected {count}")
        self._at = len(self._data) - len(inflate.unused_data)
        return np.frombuffer(decoded, dtype=np.uint8)


def _huffman(codes: bytes | memoryview) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS, strategy=zlib.Z_HUFFMAN_ONLY)
    return deflate.compress(codes) + deflate.flush()


def _checksum(form: int, *body: bytes | memoryview) -> int:
    found = zlib.crc32(bytes([form]))
    for part in body:
        found = zlib.crc32(part, found)
    return found


def _rice_parameter(gaps: Ints) -> int:
    """The cheapest parameter among the three nearest to log2 of the mean gap."""
    if not len(gaps):
        return 0
    guess = int(np.log2(gaps.mean() + 1))
    candidates = range(max(guess - 1, 0), min(guess + 1, _LARGEST_PARAMETER) + 1)
    return min(candidates, key=lambda k: int((gaps >> k).sum()) + k * len(gaps))


def _unary(quotients: Ints) -> bytes:
    """Encode each number as that many zeros, then a one."""
    ones = np.cumsum(quotients + 1) - 1
    stream = np.zeros(ones[-1] + 1 if len(ones) else 0, dtype=np.uint8)
    stream[ones] = 1
    return np.packbits(stream).tobytes()


def _read_count(reader: _Reader, least_bits: int, layout: Layout) -> tuple[int, int]:
    """The number of entries, and the Rice parameter. The bytes that they announce are there."""
    entries, k = _COUNT.unpack(reader.take(_COUNT.size).tobytes())
    if entries > layout.size:
        raise RemoteProtocolError(f"{entries} entries for a model of {layout.size}")
    if k > _LARGEST_PARAMETER:
        raise RemoteProtocolError(f"a Rice parameter of {k}, at most {_LARGEST_PARAMETER}")
    # each entry takes its low bits, at least so many for its value, and at least one of unary code
    reader.require((entries * (k + least_bits + 1) + 7) // 8)
    return entries, k


def _read_quotients(reader: _Reader, entries: int, layout: Layout) -> Ints:
    """The unary stream, which is all that is left, as numbers [entries]."""
    if 8 * reader.left - 7 > layout.size:  # it has at most one bit per parameter
        raise RemoteProtocolError(f"{reader.left} unary bytes for a model of {layout.size}")
    stream = np.unpackbits(reader.take(reader.left)).view(np.bool_)  # searched four times faster than integers
    ones = np.flatnonzero(stream)
    if len(ones) != entries or (len(stream) - (ones[-1] + 1 if entries else 0)) >= 8:
        raise RemoteProtocolError(f"the unary stream holds {len(ones)} entries, expected {entries}")
    return np.diff(ones, prepend=-1) - 1


def _indices(gaps: Ints, layout: Layout) -> Ints:
    """The flat positions [k]."""
    indices: Ints = np.cumsum(gaps + 1) - 1
    if len(indices) and indices[-1] >= layout.size:
        raise RemoteProtocolError("an index is out of range")
    return indices


def _pack_codes(values: Values) -> bytes | memoryview:
    codes, bits = values.codes, values.bits
    match bits:
        case 32:
            return _data(codes.astype("<f4", copy=False))
        case 16:
            return _data(codes.astype("<u2", copy=False))
        case 8:
            return _data(codes.astype(np.int8, copy=False))
        case 1 if not values.fitted:
            return np.packbits(codes < 0).tobytes()  # type: ignore[operator]  # integers
    return pack(codes.astype(np.int8), bits)  # the low bits, as two's complement


def _data(codes: NDArray[np.generic]) -> memoryview:
    """The bytes of an array, which are not copied if it is contiguous."""
    return np.ascontiguousarray(codes).view(np.uint8).data


def _read_values(reader: _Reader, entries: int, tensors: int, bits: int, fitted: bool, coded: bool) -> Values:
    if bits >= 16:
        raw = reader.take(entries * bits // 8)
        codes = raw.view("<f4") if bits == 32 else raw.view("<u2")
        values = Values(codes, bits)
        if not np.isfinite(values.decode(np.zeros(0, dtype=np.int64))).all():
            raise RemoteProtocolError("a value is not finite")
        return values
    scales = _read_scales(reader, tensors, bits, fitted)
    if bits == 8:
        levels = (reader.take_coded(entries) if coded else reader.take(entries)).view(np.int8)
    else:
        packed = reader.take(packed_bytes(entries, bits))
        plain = unpack(packed, entries, bits, np.uint8 if fitted else np.int8)
        if fitted:
            return Values(plain, bits, scales, fitted=True)
        if bits == 1:
            return Values(1 - 2 * plain, bits, scales)
        levels = plain - ((plain >> (bits - 1)) << bits)
    if (levels == -(1 << (bits - 1))).any():
        raise RemoteProtocolError("an integer value is out of range")
    return Values(levels, bits, scales)


def _scale_bytes(bits: int, fitted: bool) -> int:
    """The number of bytes of one tensor's scale."""
    return 0 if bits >= 16 else 2 if fitted else 4


def _read_scales(reader: _Reader, tensors: int, bits: int, fitted: bool) -> Floats:
    largest = float(LEVELS[bits][-1]) if fitted else 1 << (bits - 1)
    raw = reader.take(_scale_bytes(bits, fitted) * tensors)
    scales = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32) if fitted else raw.view("<f4")
    if not ((scales >= 0) & (scales <= np.finfo(np.float32).max / max(largest, 1))).all():
        raise RemoteProtocolError("a scale is negative, or its values are not finite")
    return scales
