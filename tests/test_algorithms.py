"""Every algorithm against the matrix form of its paper, against related algorithms, and through a checkpoint.

The matrix forms share only the compressor with the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate, State, debias
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from tests.algorithm_references import (
    LAYOUT,
    NODES,
    OPTIMA,
    RATE,
    START,
    Compress,
    Matrix,
    choco,
    d2,
    d_psgd,
    diloco,
    local,
    quant_sgp,
    rolling,
    sgp,
    sparse_push,
    towards_optima,
)

Step = Callable[[int, Matrix], Matrix]  # (round, z [n, d]) -> local updates [n, d]
ROUNDS = 40


def spec_of(nodes: int = NODES, **algorithm: object) -> AlgorithmSpec:
    graph, rounds = str(algorithm.pop("graph", "two-way")), algorithm.pop("rounds", ROUNDS)
    keys = {f"algorithm.{key}": value for key, value in algorithm.items()}
    return factory.algorithm_spec(
        load(None, {"run.nodes": nodes, "run.rounds": rounds, "topology.graphs": graph, **keys}, {})
    )


def names(n: int = NODES) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(n))


def learners_of(
    algorithm_spec: AlgorithmSpec, states: list[State] | None = None, nodes: int = NODES
) -> list[VectorLearner]:
    states = states or [algorithm_spec.initial(START.astype(np.float32)) for _ in range(nodes)]
    return [
        VectorLearner(algorithm_spec, LAYOUT, state, 3, name)
        for name, state in zip(names(len(states)), states, strict=True)
    ]


def play(learners: list[VectorLearner], graph: str, rounds: range, step: Step = towards_optima) -> Iterator[Matrix]:
    """z of all nodes after each round. Messages are bytes."""
    known = names(len(learners))
    period = GraphSpec(graph).period(known)
    for t in rounds:
        digraph = period[t % len(period)]
        moves = step(t, np.stack([learner.model() for learner in learners]).astype(np.float64))
        trains = learners[0].trains(t)
        pushed = {}
        for name, learner, move in zip(known, learners, moves, strict=True):
            data, u = learner.compress_update(
                t, LocalUpdate(move.astype(np.float32), is_difference=True) if trains else None
            )
            pushed[name] = t, digraph.weight(name), u, data
        for name, learner in zip(known, learners, strict=True):
            senders = digraph.in_neighbours(name)
            received = [learner.read(*pushed[sender]) for sender in senders]
            learner.mix_round(digraph.weight(name), received, sum(sender < name for sender in senders))
        yield np.stack([learner.model() for learner in learners]).astype(np.float64)


def mixing(graph: str, rate: float = 1.0) -> Matrix:
    w = GraphSpec(graph).period(names())[0].mixing_matrix()
    return np.eye(NODES) + rate * (w - np.eye(NODES))


def compressed_by(algorithm_spec: AlgorithmSpec) -> Compress:
    """C on every row, for compressors without randomness."""
    noise = np.random.default_rng(0)

    def compress(rows: Matrix) -> Matrix:
        payloads = [algorithm_spec.compressor(row.astype(np.float32), LAYOUT, noise) for row in rows]
        return np.stack([payload.dense(LAYOUT.size) for payload in payloads]).astype(np.float64)

    return compress


FLOAT = {"values": "float32"}
TOP = {"compressor": "topk", "share": 0.2, "averaging_rate": 0.1}
REFERENCES = [
    ("sp", {**TOP, **FLOAT}, "chord", sparse_push),
    ("sp", {**TOP, **FLOAT}, "exponential", sparse_push),
    ("sp", {"compressor": "rolling", "share": 0.1, **FLOAT}, "chord", rolling),
    ("sgp", {}, "chord", sgp),
    ("d-psgd", {}, "two-way", d_psgd),
    ("d-psgd", {}, "a", d_psgd),
    ("d2", {"averaging_rate": 1.0}, "two-way", d2),
    ("d2", {}, "complete", d2),
    ("deep-squeeze", {**TOP, **FLOAT}, "two-way", sparse_push),
    ("choco-sgd", {**TOP, **FLOAT}, "two-way", choco),
    ("choco-sgd", {**TOP, **FLOAT}, "a", choco),
    ("quant-sgp", {**TOP, **FLOAT}, "chord", quant_sgp),
    ("quant-sgp", FLOAT, "chord", quant_sgp),
    ("diloco", {**TOP, **FLOAT}, "complete", diloco),
    ("diloco", {"averaging_rate": 0.3, **FLOAT}, "complete", diloco),
    ("local", {}, "a", local),
]


@pytest.mark.parametrize(("name", "settings", "graph", "reference"), REFERENCES)
def test_algorithm_equals_the_matrix_form_of_its_paper(
    name: str, settings: dict[str, object], graph: str, reference: Callable[..., Iterator[Matrix]]
) -> None:
    check_matrix_form(name, settings, graph, reference)


def check_matrix_form(
    name: str, settings: dict[str, object], graph: str, reference: Callable[..., Iterator[Matrix]]
) -> None:
    algorithm_spec = spec_of(name=name, graph=graph, **settings)
    expected = reference(mixing(graph), algorithm_spec.averaging_rate, compressed_by(algorithm_spec))
    for ours, theirs in zip(play(learners_of(algorithm_spec), graph, range(ROUNDS)), expected, strict=False):
        assert np.abs(ours - theirs).max() < 2e-4


# --- the family


def run(graph: str = "two-way", step: Step = towards_optima, **algorithm: object) -> list[Matrix]:
    algorithm_spec = spec_of(graph=graph, **algorithm)
    return list(play(learners_of(algorithm_spec), graph, range(algorithm_spec.rounds), step))


def equal(a: list[Matrix], b: list[Matrix], within: float = 0.0) -> bool:
    return len(a) == len(b) and all(np.abs(x - y).max() <= within for x, y in zip(a, b, strict=True))


def test_sparse_push_without_compression_is_sgp() -> None:
    assert spec_of(name="sp", compressor="identity", values="float32") == spec_of(name="sgp")


def test_scsp_without_gossip_is_sparse_push() -> None:
    assert spec_of(name="scsp", gossip_rounds=0) == spec_of(name="sp")


def test_sgp_on_a_balanced_graph_is_d_psgd() -> None:
    """All push-sum weights are 1 there."""
    learners = learners_of(spec_of(name="d-psgd"))
    assert equal(list(play(learners, "two-way", range(ROUNDS))), run(name="sgp"))
    assert all(abs(learner.u - 1) < 1e-12 for learner in learners)


def test_sgp_on_the_complete_graph_is_sgd_with_all_batches() -> None:
    z = START.copy()
    for models in run("complete", name="sgp"):
        z = z + towards_optima(0, np.tile(z, (NODES, 1))).mean(axis=0)
        assert np.abs(models - z).max() < 1e-5


def test_sparse_push_on_a_balanced_graph_is_deep_squeeze() -> None:
    assert equal(run(name="sp", **TOP), run(name="deep-squeeze", **TOP))


def test_choco_sgd_without_compression_is_d_psgd() -> None:
    ours = run(name="choco-sgd", compressor="identity", values="float32", averaging_rate=1.0)
    assert equal(ours, run(name="d-psgd"), within=1e-5)


def test_quant_sgp_without_quantisation_is_sgp() -> None:
    assert equal(run("chord", name="quant-sgp", values="float32"), run("chord", name="sgp"), within=1e-5)


def test_quant_sgp_on_a_balanced_graph_is_choco_sgd() -> None:
    settings: dict[str, object] = {"compressor": "identity", "values": "int8", "averaging_rate": 0.7}
    assert equal(run(name="quant-sgp", **settings), run(name="choco-sgd", **settings))


def test_d2_equals_d_psgd_while_nodes_agree() -> None:
    d2_first, d_psgd_first = run(name="d2", averaging_rate=1.0)[0], run(name="d-psgd")[0]
    assert np.array_equal(d2_first, d_psgd_first)

    def alike(t: int, z: Matrix) -> Matrix:
        return -RATE * (z - OPTIMA[0])

    assert equal(run(step=alike, name="d2", averaging_rate=1.0), run(step=alike, name="d-psgd"), within=1e-5)


def test_rolling_exchange_of_everything_is_uncompressed() -> None:
    whole = spec_of(name="sp", compressor="rolling", share=1.0)
    assert whole == spec_of(name="sp", compressor="identity")


def test_local_training_sends_nothing() -> None:
    (learner, *_) = learners_of(spec_of(name="local"))
    nothing, u = learner.compress_update(0, LocalUpdate(np.ones(LAYOUT.size, dtype=np.float32), is_difference=True))
    assert len(nothing) < 30
    assert u == (1.0,)


# --- the papers' claims about unequal data


def apart_from_the_mean_optimum(models: Matrix) -> float:
    return float(np.linalg.norm(models - OPTIMA.mean(axis=0)) / np.linalg.norm(OPTIMA - OPTIMA.mean(axis=0)))


def test_d2_finds_the_common_optimum_and_d_psgd_does_not() -> None:
    def after(name: str) -> float:
        algorithm_spec = spec_of(name=name, rounds=300)
        *_, last = play(learners_of(algorithm_spec), "two-way", range(300))
        return apart_from_the_mean_optimum(last)

    assert after("d-psgd") > 0.05
    assert after("d2") < 1e-5


@pytest.mark.slow
def test_d2_diverges_under_compression_before_deep_squeeze() -> None:
    """Section 2 of the paper. At twice the kept share, D2's correction amplifies the last round's compression error."""

    def after(name: str, rounds: int) -> float:
        algorithm_spec = spec_of(name=name, rounds=rounds, **{**TOP, "averaging_rate": 0.4})
        *_, last = play(learners_of(algorithm_spec), "two-way", range(rounds))
        return apart_from_the_mean_optimum(last)

    assert after("deep-squeeze", 100) < 0.7
    assert 10 < after("d2", 50) < after("d2", 100) / 10


def test_d2_converges_under_compression_at_a_low_rate() -> None:
    algorithm_spec = spec_of(name="d2", rounds=200, **{**TOP, "averaging_rate": 0.02})
    *_, last = play(learners_of(algorithm_spec), "two-way", range(200))
    assert apart_from_the_mean_optimum(last) < 0.1


# --- the state

EVERY: dict[str, dict[str, object]] = {
    "sp": TOP,
    "scsp": {**TOP, "gossip_rounds": 5},
    "sp rolling": {"compressor": "rolling", "share": 0.3},
    "scsp rolling": {"compressor": "rolling", "share": 0.3, "gossip_rounds": 5},
    "sgp": {},
    "quant-sgp": {"compressor": "random"},
    "d-psgd": {},
    "d2": {},
    "deep-squeeze": TOP,
    "choco-sgd": TOP,
    "diloco": {"graph": "complete"},
    "diloco in pairs": {"graph": "halving", "nodes": 4},
    "diloco in groups": {"graph": "doubling", "nodes": 6, "rounds": 42},
    "local": {},
}


@pytest.mark.parametrize("of", EVERY)
def test_every_algorithm_resumes_to_the_bit(tmp_path: Path, of: str) -> None:
    check_resume(tmp_path, of.split(maxsplit=1)[0], EVERY[of])


def check_resume(tmp_path: Path, name: str, settings: dict[str, object]) -> None:
    algorithm_spec = spec_of(name=name, **{"rounds": 24, **settings})
    graph, nodes = str(settings.get("graph", "two-way")), int(str(settings.get("nodes", NODES)))
    learners = learners_of(algorithm_spec, nodes=nodes)
    whole = list(play(learners, graph, range(algorithm_spec.rounds)))
    learners = learners_of(algorithm_spec, nodes=nodes)
    list(play(learners, graph, range(17)))
    plan = create_plan("test", [Member(name) for name in names(nodes)], Schedule((GraphSpec(graph),), 1))
    states = []
    for node, learner in zip(names(nodes), learners, strict=True):
        store = CheckpointStore(tmp_path / node, "run")
        store.save(Checkpoint(17, learner.state.copy(), plan, {}, {}))
        states.append(store.load(17).state)
    assert equal(list(play(learners_of(algorithm_spec, states), graph, range(17, algorithm_spec.rounds))), whole[17:])


@pytest.mark.parametrize(
    ("of", "vectors"),
    [
        ("sp", ["x", "error"]),
        ("sgp", ["x"]),
        ("d-psgd", ["x"]),
        ("deep-squeeze", ["x", "error"]),
        ("choco-sgd", ["x", "known", "gathered"]),
        ("quant-sgp", ["x", "known", "gathered"]),
        ("diloco", ["x", "rest", "change", "momentum", "start"]),
        ("d2", ["x", "history"]),
        ("local", ["x"]),
    ],
)
def test_node_keeps_only_the_vectors_of_its_algorithm(of: str, vectors: list[str]) -> None:
    (learner, *_) = learners_of(spec_of(name=of, **EVERY[of]))
    assert list(learner.state.vectors) == vectors


@pytest.mark.parametrize("values", ["int8", "float32"])
def test_rolling_exchange_keeps_an_error_for_rounded_values(values: str) -> None:
    (learner, *_) = learners_of(spec_of(name="sp", compressor="rolling", values=values))
    assert ("error" in learner.state.vectors) == (values == "int8")


@pytest.mark.parametrize("of", ["d-psgd", "d2", "deep-squeeze", "choco-sgd", "quant-sgp"])
def test_mean_model_takes_plain_steps_on_balanced_graphs(of: str) -> None:
    check_mean_steps(of, EVERY[of])


def check_mean_steps(name: str, settings: dict[str, object]) -> None:
    """Mass is conserved: the sum of all x changes by the sum of the local updates."""
    algorithm_spec = spec_of(name=name, **settings)
    learners, total = learners_of(algorithm_spec), NODES * START
    for t in range(20):
        before = np.stack([debias(learner.state) for learner in learners]).astype(np.float64)
        total = total + towards_optima(t, before).sum(axis=0)
        next(play(learners, "two-way", range(t, t + 1)))
        now = sum(learner.state.x.astype(np.float64) for learner in learners)
        assert np.abs(now - total).max() < 1e-4
