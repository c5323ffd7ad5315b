"""What a round costs besides its gradient: the vector work of one node, as a share of the gradient's processor time.

    python benchmarks/vector_work.py                       # two networks, three compressors: about two minutes
    python benchmarks/vector_work.py --rounds 3 resnet20   # a quick look

One node mixes its own message as that of a neighbour, in one process with one thread. The rounds of all rows are
interleaved, so that a disturbance hits all of them. Each figure is the median in ms of processor time, with the range.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from edgenode.bench.vectors import Stopwatch
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Compressor, Layout, Select, TopK, keep_all
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.node.resources import keep_freed_memory
from edgenode.tasks import models
from edgenode.tasks.flat_params import FlatModel
from edgenode.tasks.optimizers import FlatSGD
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import RunLength

NETWORKS = ("resnet20", "vgg11")
COMPRESSORS: dict[str, tuple[Select, int]] = {
    "top-1%": (TopK(0.01), 1),
    "top-0.1%": (TopK(0.001), 1),
    "rolling 1%": (keep_all, 100),
}
WARM_UP = 10  # rounds, until the error has grown
GRADIENT, OPTIMISER = "gradient", "optimiser"
SELECTION, ADDITION, CLONE, TORCH_TOPK = "selection alone", "np.add in place", "torch.clone", "torch.topk"
APART = (GRADIENT, OPTIMISER, SELECTION, ADDITION, CLONE, TORCH_TOPK)  # all other parts are what the exchange adds

Times = Mapping[str, list[float]]


class Node:
    """A network, its optimiser and its learner, which run a round part by part."""

    def __init__(self, network: str, select: Select, blocks: int, values: str, batch: int) -> None:
        self.flat = FlatModel(models.build(network, 10, 3, 32), torch.device("cpu"))
        settings = TrainSettings(learning_rate=0.01, batch_size=batch)
        self.descent = FlatSGD(self.flat, settings, RunLength(rounds=10**6, rounds_per_epoch=10**6))
        self.descent.begin_round(0)
        self.layout = Layout(tuple(size for _, size in self.flat.layout))
        spec = AlgorithmSpec(Compressor(select, QUANTISE[values]), 1.0 if blocks > 1 else 0.005, 10**6, blocks=blocks)
        self.learner = VectorLearner(spec, self.layout, spec.initial(self.flat.read()), 0, "node")
        self.images, self.labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
        self.watch = Stopwatch()
        self.total = self.learner.state.error.copy()  # of the addition
        self.bits = math.nan
        self.t = 0

    def round(self) -> None:
        """One round: local step, message, mixing."""
        learner, t = self.learner, self.t
        with self.watch.running("z"):
            self.flat.load(learner.start().read(self.flat.staging))
        with self.watch.running(GRADIENT):
            self.flat.clear_gradients()
            cross_entropy(self.flat.model(self.images), self.labels).backward()
        with self.watch.running(OPTIMISER):
            self.descent.step()
        with self.watch.running("local update, compress, encode"):
            data, u = learner.compress_update(t, LocalUpdate(*self.flat.after_steps()))
        with self.watch.running("decode"):
            contribution = learner.read(t, 0.5, u, data)
        with self.watch.running("mix"):
            learner.mix_round(0.5, [contribution])
        learner.discard_sent(t)
        payload, self.t = contribution.payload, t + 1
        self.bits = 8 * len(data) / len(payload.numbers)

    def compare_selection(self) -> None:
        """The selection of a whole vector, and what other operations on it take. The addition has three passes."""
        select, error = self.learner.algorithm_spec.compressor.select, self.learner.state.error
        if not isinstance(select, TopK):
            return
        tensor = torch.from_numpy(error)
        with self.watch.running(SELECTION):
            select(error, self.layout)
        with self.watch.running(ADDITION):
            self.total += error
        with self.watch.running(CLONE):
            tensor.clone()
        with self.watch.running(TORCH_TOPK):
            torch.topk(tensor.abs(), int(select.share * len(tensor)))


def measure(networks: Sequence[str], names: Sequence[str], values: str, batch: int, rounds: int) -> None:
    """Run all nodes in turn, and print their tables."""
    made = {
        (network, name): Node(network, *COMPRESSORS[name], values="int8" if "rolling" in name else values, batch=batch)
        for network in networks
        for name in names
    }
    for t in range(WARM_UP + rounds):
        for node in made.values():
            if t == WARM_UP:
                node.watch.times.clear()
            node.round()
            node.compare_selection()
    for (network, name), node in made.items():
        show(f"{network}, {node.layout.size:,} parameters, {name}, {node.bits:.1f} bits per entry", node.watch.times)


def show(title: str, times: Times) -> None:
    gradient = statistics.median(times[GRADIENT])
    added = [sum(parts) for parts in zip(*(times[part] for part in times if part not in APART), strict=True)]
    with_optimiser = [a + o for a, o in zip(added, times[OPTIMISER], strict=True)]
    rows = {**times, "**all that the exchange adds**": added, "**the same, and the optimiser**": with_optimiser}
    print(f"\n{title}\n\n| part | ms | range | share of the gradient |\n|---|---|---|---|")
    for part, found in rows.items():
        median = statistics.median(found)
        print(f"| {part} | {median:.2f} | {min(found):.2f} to {max(found):.2f} | {100 * median / gradient:.1f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--compressors", nargs="+", choices=COMPRESSORS, default=list(COMPRESSORS))
    parser.add_argument("--values", choices=QUANTISE, default="fitted1", help="of top-k; rolling has int8")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    keep_freed_memory()  # as a node does
    print(f"numpy {np.__version__}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, batch {asked.batch}")
    measure(asked.networks, asked.compressors, asked.values, asked.batch, asked.rounds)


if __name__ == "__main__":
    main()
