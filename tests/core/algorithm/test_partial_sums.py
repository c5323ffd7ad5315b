"""The last phase of real learners, as an allreduce: the same average at all of them, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import DIVERGED, Compressor, Floats, Layout, Payload, TopK, Values, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.partial_sums import division
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.topology.allreduce import Allreduce, Transfer, edges
from edgenode.errors import LocalProtocolError, RemoteProtocolError

LAYOUT = Layout((40, 7, 1, 60))
FORMATS = tuple(QUANTISE)


def a_spec(values: str = "float32", blocks: int = 1) -> AlgorithmSpec:
    compressor = Compressor(keep_all if blocks > 1 else TopK(0.1), QUANTISE["int8"])
    return AlgorithmSpec(compressor, 1.0, 1, 3, blocks, gossip_compressor=Compressor(keep_all, QUANTISE[values]))


def learners(
    n: int, values: str = "float32", blocks: int = 1, layout: Layout = LAYOUT, seed: int = 0
) -> dict[str, VectorLearner]:
    rng, spec, nodes = np.random.default_rng(seed), a_spec(values, blocks), [f"n{i:03d}" for i in range(n)]
    states = [spec.initial(rng.standard_normal(layout.size, dtype=np.float32)) for _ in nodes]
    for state in states:
        state.u[:] = rng.uniform(0.5, 2, blocks)
    return {node: VectorLearner(spec, layout, state, 0, node) for node, state in zip(nodes, states, strict=True)}


def play(
    among: dict[str, VectorLearner], rounds: int | None = None, lose: Sequence[tuple[int, str]] = ()
) -> list[list[int]]:
    """Play the phase, or its first rounds, without the pushes of some senders. Returns the bytes of each round."""
    phase, sizes = Allreduce(1, tuple(among)), []
    for t, round_edges in zip(range(1, phase.end if rounds is None else 1 + rounds), edges(len(among)), strict=False):
        steps = {node: phase.transfer(t, node) for node in among}
        pushed = {node: learner.compress_update(t, None, transfer=steps[node]) for node, learner in among.items()}
        sizes.append([len(data) for data, _ in pushed.values()])
        for sender, receiver in ((phase.nodes[s], phase.nodes[r]) for s, r in round_edges):
            data, u = pushed[sender]
            arrived = [among[receiver].read(t, 0.5, u, data, transfer=steps[sender])] if (t, sender) not in lose else []
            among[receiver].mix_round(0.5, arrived)
    return sizes


def keep_all_of(numbers: Floats, layout: Layout) -> Payload:
    return Payload(np.asarray(layout.sizes, dtype=np.int64), None, Values(numbers))


def average(among: dict[str, VectorLearner], blocks: int = 1) -> Floats:
    x = sum(learner.state.x.astype(np.float64) for learner in among.values())
    u = sum(learner.state.u for learner in among.values())
    bounds = np.arange(blocks + 1) * LAYOUT.size // blocks
    return np.asarray(x / np.repeat(u, np.diff(bounds)), dtype=np.float32)


@given(st.integers(2, 9), st.sampled_from([1, 1, 3, 10, 40]), st.integers(0, 99))
@settings(max_examples=20)
def test_all_nodes_end_with_the_average_to_the_bit(n: int, blocks: int, seed: int) -> None:
    among = learners(n, blocks=blocks, seed=seed)
    expected = average(among, blocks)
    play(among)
    models = [learner.model() for learner in among.values()]
    assert np.abs(models[0] - expected).max() < 1e-6 * n
    assert all(model.tobytes() == models[0].tobytes() for model in models)


@pytest.mark.parametrize("values", FORMATS)
@pytest.mark.parametrize("n", [2, 3, 6, 13])
def test_every_number_format_gives_one_model_to_the_bit(values: str, n: int) -> None:
    among = learners(n, values)
    expected = average(among)
    play(among)
    models = {learner.model().tobytes() for learner in among.values()}
    assert len(models) == 1
    far = {"float32": 1e-6, "bfloat16": 0.01, "int8": 0.03}.get(values, 2.0)
    assert np.abs(among["n000"].model() - expected).max() < far


@pytest.mark.parametrize("n", [2, 3, 4, 7, 8, 16])
def test_int8_is_off_by_half_a_step_for_each_round_of_sums_and_one_more(n: int) -> None:
    among = learners(n, "int8")
    for learner in among.values():
        learner.state.u[:] = 1
    expected = average(among)
    largest = np.max([np.abs(learner.state.x) for learner in among.values()], axis=0)
    tensors = np.repeat(np.arange(len(LAYOUT.sizes)), LAYOUT.sizes)
    steps = np.array([largest[tensors == tensor].max() / 127 for tensor in range(len(LAYOUT.sizes))])[tensors]
    play(among)
    off = np.abs(among["n000"].model() - expected) / steps
    assert off.max() <= ((n - 1).bit_length() + 1) / 2


def test_a_node_sends_less_than_two_models() -> None:
    sizes = play(learners(13))
    per_node = np.array(sizes).sum(axis=0)
    headers = 5 * len(sizes)
    assert per_node.max() - headers <= 2 * 4 * LAYOUT.size
    assert [max(of_round) for of_round in sizes[-4:]] == [5] * 4  # confirmation


def test_more_nodes_than_entries_average_them_too() -> None:
    among = learners(7, layout=Layout((2, 1)))
    play(among)
    assert len({learner.model().tobytes() for learner in among.values()}) == 1


@pytest.mark.parametrize("n", [2, 4, 8])
def test_sums_that_no_model_has_end_no_other_node(n: int) -> None:
    """They would be above what a node may send, so their receivers would end as if their training had diverged."""
    among = learners(n)
    liar = among["n001"]
    told, honest = np.float32(9 * DIVERGED), liar.compress_update

    def lying(t: int, update: None, handoff: bool = False, transfer: Transfer | None = None) -> Any:
        data, u = honest(t, update, handoff, transfer)
        assert transfer is not None
        layout = division(LAYOUT, transfer.parts, 1).layout(transfer)
        return (codec.encode(keep_all_of(np.full(layout.size, told), layout), layout) if transfer.reduces else data), u

    liar.compress_update = lying  # type: ignore[method-assign]
    play(among)
    for node, learner in among.items():
        assert learner.phase_result is not None
        assert np.isfinite(learner.model()).all()
        before = learner.phase_result.before
        learner.refuse_average()
        assert learner.model().tobytes() == before.tobytes(), node
        assert learner.phase_result is None


@pytest.mark.parametrize("rounds", range(6))
def test_the_phase_changes_nothing_until_it_is_complete(rounds: int) -> None:
    among = learners(8)
    before = {node: (learner.model(), learner.snapshot(1), learner.u) for node, learner in among.items()}
    play(among, min(rounds, 5))
    for node, learner in among.items():
        z, saved, u = before[node]
        assert learner.model().tobytes() == z.tobytes()
        assert learner.snapshot(1).x.tobytes() == saved.x.tobytes()
        assert learner.u == u


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_phase_that_was_cut_off_begins_again_without_a_node(cut: int) -> None:
    among, others = learners(5), learners(5)
    play(among, cut, lose=[(cut, "n002")])
    del among["n002"], others["n002"]
    play(among)
    play(others)
    assert len({learner.model().tobytes() for learner in [*among.values(), *others.values()]}) == 1


def test_the_last_snapshot_is_the_average_with_weight_one() -> None:
    among = learners(4)
    play(among)
    last = among["n001"].snapshot(7)
    assert isinstance(last, State)
    assert last.x.tobytes() == among["n000"].model().tobytes()
    assert (last.u == 1).all()
    assert not last.error.any()
    assert among["n001"].u == 1.0


def test_a_push_undone_in_the_phase_counts_in_the_next() -> None:
    among = learners(2)
    learner = among["n000"]
    learner.compress_update(0, None)
    learner.mix_round(0.5, [])
    play(among, 1)
    before = learner.state.u.copy()
    learner.undo_push(0, 0.5)
    assert (learner.state.u > before).all()
    play(among)
    assert np.abs(among["n001"].model() - average(among)).max() < 1e-6


def test_a_push_of_another_kind_is_refused() -> None:
    among, phase = learners(4), Allreduce(1, tuple(f"n{i:03d}" for i in range(4)))
    sums, later = phase.transfer(1, "n000"), phase.transfer(3, "n000")
    learner = among["n000"]
    data, u = learner.compress_update(1, None, transfer=sums)
    with pytest.raises(RemoteProtocolError, match="1 push-sum weights in round 1, expected 2"):
        learner.read(1, 0.5, (1.0,), data, transfer=sums)
    int8 = Compressor(keep_all, QUANTISE["int8"])(learner.state.x[:54], Layout((40, 7, 1, 6)), np.random.default_rng(0))
    with pytest.raises(RemoteProtocolError):
        learner.read(1, 0.5, u, codec.encode(int8, LAYOUT), transfer=sums)
    part = Layout((27,))
    own = Compressor(keep_all, QUANTISE["int8"])(learner.state.x[:27], part, np.random.default_rng(0))
    with pytest.raises(RemoteProtocolError, match="not in the number format of the last phase"):
        learner.read(3, 0.5, (1.0,), codec.encode(own, part), transfer=later)
    with pytest.raises(LocalProtocolError, match="sends parts of no last phase"):
        among["n001"].compress_update(3, None, transfer=later)
