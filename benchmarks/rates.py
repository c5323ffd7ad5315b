"""The averaging rates at which compressed algorithms converge and diverge, for benchmarks/notes/algorithms.md.

python benchmarks/rates.py differences    # CHOCO-SGD and Quant-SGP, without training: distance from the mean
python benchmarks/rates.py d2             # D2 and Deep-Squeeze on quadratics: distance from the common optimum
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Floats, Layout, TopK, as_float32, keep_all
from edgenode.core.algorithm.d2 import D2
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import Random, as_int8
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.algorithm.update_rules import DIFFERENCE, SPARSE_PUSH
from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import LocalProtocolError

Step = Callable[[int, Floats], Floats]  # (node, z) -> local update


def play(algorithm_spec: AlgorithmSpec, graph: str, models: Floats, step: Step) -> Iterator[Floats]:
    """z of all nodes, [n, d], after every round."""
    names = [f"n{i}" for i in range(len(models))]
    digraph, layout = GraphSpec(graph).period(tuple(names))[0], Layout((models.shape[1],))
    nodes = {
        n: VectorLearner(algorithm_spec, layout, algorithm_spec.initial(x), 0, n)
        for n, x in zip(names, models, strict=True)
    }
    for t in range(algorithm_spec.rounds):
        pushed = {}
        for i, (name, node) in enumerate(nodes.items()):
            data, u = node.compress_update(t, LocalUpdate(step(i, node.model()), is_difference=True))
            pushed[name] = t, digraph.weight(name), u, data
        for name, node in nodes.items():
            node.mix_round(digraph.weight(name), [node.read(*pushed[peer]) for peer in digraph.in_neighbours(name)])
            node.discard_sent(t)
        yield np.stack([node.model() for node in nodes.values()])


def distances(
    algorithm_spec: AlgorithmSpec, graph: str, models: Floats, step: Step, target: Floats, rounds: list[int]
) -> list[str]:
    """The root mean square distance from the target after some of the rounds, as text."""
    found = []
    try:
        for t, z in enumerate(play(algorithm_spec, graph, models, step), 1):
            if t in rounds:
                found.append(f"{np.sqrt(((z - target) ** 2).mean()):.2g}")
    except LocalProtocolError:
        found.append("diverged")
    return found


def differences() -> None:
    models = np.random.default_rng(0).standard_normal((4, 3000)).astype(np.float32)
    compressors = {
        "top-10%": Compressor(TopK(0.1), as_float32),
        "top-1%": Compressor(TopK(0.01), as_float32),
        "random 4 bits": Compressor(keep_all, Random(4)),
        "random 1 bit": Compressor(keep_all, Random(1)),
        "int8": Compressor(keep_all, as_int8),
    }
    for graph in ("a", "chord"):
        for name, compressor in compressors.items():
            for rate in (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01):
                algorithm_spec = AlgorithmSpec(compressor, rate, 600, rule=DIFFERENCE)
                still = np.zeros(3000, dtype=np.float32)
                (last,) = distances(
                    algorithm_spec, graph, models, lambda i, z, still=still: still, models.mean(axis=0), [600]
                )
                print(f"{graph:6} {name:14} rate {rate:<5} {last}", flush=True)


def d2() -> None:
    share, nodes, size = 0.05, 5, 1000
    optima = np.random.default_rng(1).standard_normal((nodes, size)).astype(np.float32)
    scale = float(np.sqrt(((optima - optima.mean(axis=0)) ** 2).mean()))
    for ratio in (0.1, 0.5, 1, 2):
        for name, rule in (("d2", D2), ("deep-squeeze", SPARSE_PUSH)):
            noise = np.random.default_rng(5)

            def step(node: int, z: Floats, noise: np.random.Generator = noise) -> Floats:
                return np.float32(-0.1) * (z - optima[node] + noise.standard_normal(size).astype(np.float32))

            algorithm_spec = AlgorithmSpec(Compressor(TopK(share), as_float32), ratio * share, 800, rule=rule)
            found = distances(
                algorithm_spec, "two-way", np.zeros_like(optima), step, optima.mean(axis=0), [100, 400, 800]
            )
            print(f"{name:14} rate / share {ratio:<5}", ", ".join(f"{float(d) / scale:.2g}" for d in found), flush=True)


if __name__ == "__main__":
    {"differences": differences, "d2": d2}[sys.argv[1]]()
