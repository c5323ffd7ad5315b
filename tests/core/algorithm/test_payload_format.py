"""A compressor's own payload format: whatever bytes it is given, the codec returns a sound payload or a refusal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, Payload, Values, as_float32, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.errors import RemoteProtocolError

LAYOUT = Layout((3, 5))
START = np.arange(8, dtype=np.float32)


@dataclass(frozen=True)
class Raw:
    """Entries per tensor in a byte each, positions in a byte each, and float32 numbers. It checks nothing itself."""

    limit: int = 1000

    def encode(self, payload: Payload, layout: Layout) -> bytes:
        positions = np.arange(layout.size) if payload.indices is None else payload.indices
        return bytes(payload.counts.tolist()) + bytes(positions.tolist()) + payload.numbers.tobytes()

    def decode(self, data: bytes, layout: Layout) -> Payload:
        counts = np.frombuffer(data, np.uint8, len(layout.sizes)).astype(np.int64)
        entries, at = int(counts.sum()), len(layout.sizes)
        positions = np.frombuffer(data, np.uint8, entries, at).astype(np.int64)
        return Payload(counts, positions, Values(np.frombuffer(data[at + entries :], np.float32)))

    def max_bytes(self, layout: Layout) -> int:
        return self.limit


RAW = Compressor(keep_all, as_float32, Raw())


def raw(counts: list[int], positions: list[int], *numbers: float) -> bytes:
    return bytes(counts) + bytes(positions) + np.array(numbers, dtype=np.float32).tobytes()


def test_sound_payload_is_decoded() -> None:
    payload = codec.decode_as(Raw(), raw([1, 2], [2, 3, 7], 1, 2, 3), LAYOUT)
    assert payload.dense(8).tolist() == [0, 0, 1, 2, 0, 0, 0, 3]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be decoded: ValueError"),
        (raw([1, 1], [0, 3], 1), "do not fit"),
        (raw([1, 1], [3, 3], 1, 1), "do not fit"),
        (raw([0, 1], [8], 1), "do not fit"),
        (raw([2, 0], [1, 1], 1, 1), "do not fit"),
        (raw([2, 0], [1, 0], 1, 1), "do not fit"),
        (raw([1, 0], [0], np.nan), "do not fit"),
        (raw([1, 0], [0], np.inf), "do not fit"),
        (bytes(1001), "a payload of 1001 bytes, at most 1000"),
    ],
)
def test_unsound_payload_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        codec.decode_as(Raw(), data, LAYOUT)


@pytest.mark.parametrize("returned", [None, Payload(np.zeros(2, np.int64), None, Values(np.zeros(0, np.float32)))])
def test_dense_payload_has_every_entry(monkeypatch: pytest.MonkeyPatch, returned: Payload | None) -> None:
    monkeypatch.setattr(Raw, "decode", lambda *_: returned)
    with pytest.raises(RemoteProtocolError):
        codec.decode_as(Raw(), b"", LAYOUT)


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_sound(data: bytes) -> None:
    try:
        payload = codec.decode_as(Raw(), data, LAYOUT)
    except RemoteProtocolError:
        return
    assert np.isfinite(payload.dense(LAYOUT.size)).all()


def a_learner(compressor: Compressor, name: str) -> VectorLearner:
    spec = AlgorithmSpec(compressor, 1.0, training_rounds=1, gossip_rounds=1)
    return VectorLearner(spec, LAYOUT, spec.initial(START), 0, name)


def test_learner_uses_the_format_of_its_compressor() -> None:
    learner = a_learner(RAW, "a")
    data, u = learner.compress_update(0, None)
    assert data == Raw().encode(RAW(START, LAYOUT, np.random.default_rng(0)), LAYOUT)
    assert learner.read(0, 0.5, u, data).payload.dense(8).tolist() == START.tolist()


def test_handoff_and_gossip_use_the_format_of_the_codec() -> None:
    leaver, receiver = a_learner(RAW, "a"), a_learner(RAW, "b")
    data, u = leaver.compress_update(0, None, handoff=True)
    assert codec.decode(data, LAYOUT).dense(8).tolist() == START.tolist()
    assert receiver.read(0, 1.0, u, data).payload.dense(8).tolist() == START.tolist()
    data, u = receiver.compress_update(1, None)
    assert codec.decode(data, LAYOUT).dense(8).tolist() == START.tolist()


@pytest.mark.parametrize(("limit", "expected"), [(3, codec.max_bytes(LAYOUT)), (9999, 9999)])
def test_largest_payload_is_known_before_it_arrives(limit: int, expected: int) -> None:
    assert a_learner(replace(RAW, format=Raw(limit)), "a").max_bytes == expected
