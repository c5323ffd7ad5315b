"""The checks for extensions pass what is built in, and find each fault that they promise to find."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from edgenode.config.graphs import GRAPHS
from edgenode.config.sections import ALGORITHMS, COMPRESSORS
from edgenode.errors import LocalProtocolError
from edgenode.extensions import (
    SPARSE_PUSH,
    AlgorithmDefinition,
    Compressor,
    CompressorDefinition,
    Contribution,
    Floats,
    Ints,
    Layout,
    Payload,
    Preset,
    Sent,
    State,
    UpdateRule,
    Values,
    keep_all,
    mix_contributions,
)
from edgenode_lab.testing import check_algorithm, check_compressor, check_graph
from tests.distributions import forget

TRACKING = ["dsgt", "gut", "mt", "qg-dsgdm", "qg-dsgdm-n"]
LAB = ["attacked", "choco-jwins", *TRACKING, "noloco", "skew-scout", "sparse-loco", "sparta"]


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    yield
    forget(ALGORITHMS, COMPRESSORS, GRAPHS)


@pytest.mark.parametrize("name", COMPRESSORS.own)
def test_own_compressor_passes(name: str) -> None:
    check_compressor(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*ALGORITHMS.own, *LAB) if name != "masked-diloco"])
def test_own_algorithm_passes(name: str) -> None:
    check_algorithm(name, "complete", outer_steps=name in ("diloco", "mt", "noloco"))


def test_rule_whose_nodes_have_no_masks_sends_nothing() -> None:
    with pytest.raises(LocalProtocolError, match="masked-diloco without masks"):
        check_algorithm("masked-diloco", "complete")


@pytest.mark.slow
def test_rule_that_relies_on_one_first_model_passes() -> None:
    check_algorithm("choco-jwins")


def test_outer_steps_may_move_x_but_not_u() -> None:
    with pytest.raises(AssertionError, match="changes the sum of x or u"):
        check_algorithm("noloco")
    ALGORITHMS._table["faulty"] = AlgorithmDefinition(lambda: replace(SPARSE_PUSH, mix=mix_and_weigh), "identity")
    with pytest.raises(AssertionError, match="changes the sum of x or u"):
        check_algorithm("faulty", outer_steps=True)


@pytest.mark.parametrize("name", GRAPHS.own)
def test_own_graph_passes(name: str) -> None:
    check_graph(name)


# --- compressors


def as_float32(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    return Values(numbers)


@dataclass(frozen=True)
class Dense:
    """Every number as a float16, which the sender does not round to."""

    limit: int = 1_000_000

    def encode(self, payload: Payload, layout: Layout) -> bytes:
        return payload.numbers.astype(np.float16).tobytes()

    def decode(self, data: bytes, layout: Layout) -> Payload:
        numbers = np.frombuffer(data, np.float16).astype(np.float32)
        return Payload(np.array(layout.sizes), None, Values(numbers))

    def max_bytes(self, layout: Layout) -> int:
        return self.limit


class Greedy(Dense):
    """Float32, and a decoder that takes memory before it looks at the bytes."""

    def encode(self, payload: Payload, layout: Layout) -> bytes:
        return payload.numbers.tobytes()

    def decode(self, data: bytes, layout: Layout) -> Payload:
        np.zeros(20_000_000 + 1000 * layout.size, dtype=np.uint8)[::4096] = 1
        return Payload(np.array(layout.sizes), None, Values(np.frombuffer(data, np.float32)))

    def max_bytes(self, layout: Layout) -> int:
        return 4 * layout.size


calls = itertools.count()


def with_a_counter(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    return Values(numbers + np.float32(next(calls)))


def in_place(vector: Floats, layout: Layout) -> tuple[Ints, None]:
    vector += 1
    return np.array(layout.sizes), None


@pytest.mark.parametrize(
    ("compressor", "kept", "fault"),
    [
        (Compressor(keep_all, as_float32), 0.0, "kept and contraction are shares"),
        (Compressor(keep_all, with_a_counter), 1.0, "the same vector and random numbers give other bytes"),
        (Compressor(in_place, as_float32), 1.0, "changes the vector"),
        (Compressor(keep_all, as_float32, Dense()), 1.0, "receivers decode other numbers"),
        (Compressor(keep_all, as_float32, Dense(1)), 1.0, "more than max_bytes"),
        (Compressor(keep_all, as_float32, Greedy()), 1.0, "bytes of memory for a message"),
    ],
)
def test_faulty_compressor_is_found(compressor: Compressor, kept: float, fault: str) -> None:
    COMPRESSORS._table["faulty"] = CompressorDefinition(lambda settings: compressor, kept=lambda settings: kept)
    with pytest.raises(AssertionError, match=fault):
        check_compressor("faulty")


# --- algorithms


def mix_and_add(state: State, own: Sent, weight: float, received: list[Contribution]) -> None:
    mix_contributions(state, own, weight, received)
    state.x += 1


def mix_and_weigh(state: State, own: Sent, weight: float, received: list[Contribution]) -> None:
    mix_contributions(state, own, weight, received)
    state.u += 1


def mix_with_hidden_state(state: State, own: Sent, weight: float, received: list[Contribution]) -> None:
    mix_contributions(state, own, weight, received)
    state.x *= np.float32(1 + 1e-5 * np.sin(next(calls)))


def mix_nothing(state: State, own: Sent, weight: float, received: list[Contribution]) -> None:
    pass


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (replace(SPARSE_PUSH, mix=mix_and_add), "changes the sum of x or u"),
        (replace(SPARSE_PUSH, mix=mix_with_hidden_state), "gives other bits"),
        (replace(SPARSE_PUSH, mix=mix_nothing), "models that do not train come no closer"),
    ],
)
def test_faulty_rule_is_found(rule: UpdateRule, fault: str) -> None:
    ALGORITHMS._table["faulty"] = AlgorithmDefinition(lambda: rule, "identity", "float32")
    with pytest.raises(AssertionError, match=fault):
        check_algorithm("faulty")


# --- graphs

Edges = list[tuple[int, int]]


def ring(n: int) -> Edges:
    return [(i, (i + 1) % n) for i in range(n) if n > 1]


@pytest.mark.parametrize(
    ("name", "edges", "fault"),
    [
        ("away", lambda n: [(0, i) for i in range(1, n)], "2 nodes: away is not strongly connected"),
        ("beyond", lambda n: [(0, n)], "it fits none of 2 to 16 nodes"),
        ("growing", lambda n: ring(n) + [(0, 2)] * (n > 2 and next(calls) % 2), "gives other edges"),
    ],
)
def test_faulty_graph_is_found(name: str, edges: Callable[[int], Edges], fault: str) -> None:
    GRAPHS._table[name] = Preset(lambda n: [edges(n)], "of a test")
    with pytest.raises(AssertionError, match=fault):
        check_graph(name)
