"""The work of one node on its vectors: selection, encoding, decoding, and a round next to its local step.

Everything runs in one thread and is measured in processor time, which other work on the machine disturbs least. A round
mixes the node's own message as that of a neighbour.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from edgenode import factory
from edgenode.bench import Measurement
from edgenode.config.load import load
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Layout, TopK
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.tasks import models
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength, Task
from edgenode.tasks.trainer import TaskTrainer

NETWORK = "resnet20"
COMPRESSORS = {"top-1 %": "topk", "rolling 1 %": "rolling"}
_REPEATS = 15
_WARM_UP, _ROUNDS = 3, 7
_BATCH = 32


class Noise(Task):
    """A network on random images of 32 x 32."""

    draws_from_torch_alone = True

    def model(self) -> nn.Module:
        return models.build(NETWORK, num_classes=10, in_channels=3, image_size=32)

    def train_data(self, node: NodeInfo) -> TensorDataset:
        return TensorDataset(torch.rand(4 * _BATCH, 3, 32, 32), torch.arange(4 * _BATCH) % 10)


class Stopwatch:
    """Processor time of this thread, in ms, by name."""

    def __init__(self) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Measure the block."""
        began = time.thread_time()
        yield
        self.times[name].append(1000 * (time.thread_time() - began))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def algorithm(compressor: str) -> AlgorithmSpec:
    """Return the algorithm of a run with this compressor at 1 %, with the defaults of run.toml."""
    return factory.algorithm_spec(load(None, {"algorithm.compressor": compressor, "algorithm.share": 0.01}, environ={}))


def compression() -> Iterator[Measurement]:
    """Selection and codec at 1 %, on noise in the shape of the network."""
    layout = Layout(tuple(parameter.numel() for parameter in Noise().model().parameters()))
    select, compressor = TopK(0.01), algorithm("topk").compressor
    rng, watch = np.random.default_rng(0), Stopwatch()
    entries, bits = f"1 % of {layout.size:,}", []
    for _ in range(_REPEATS):
        vector = rng.standard_normal(layout.size, dtype=np.float32)
        with watch.running("select"):
            select(vector, layout)
        payload = compressor(vector, layout, rng)
        with watch.running("encode"):
            data = codec.encode(payload, layout)
        with watch.running("decode"):
            codec.decode(data, layout)
        bits.append(8 * len(data) / len(payload.numbers))
    yield Measurement("selection", f"select the largest {entries} entries", watch.times["select"], "ms")
    yield Measurement("codec", f"encode {entries} entries", watch.times["encode"], "ms")
    yield Measurement("codec", f"decode {entries} entries", watch.times["decode"], "ms")
    yield Measurement("codec", "size of an entry, header and position included", bits, "bits")


class _Rounds:
    """The rounds of one node with one compressor."""

    def __init__(self, compressor: str) -> None:
        data = LocalData.whole(Noise().train_data(NodeInfo("bench", None, 0)))
        settings = TrainSettings(batch_size=_BATCH, learning_rate=0.01)
        run = RunLength(rounds=_WARM_UP + _ROUNDS, rounds_per_epoch=4)
        self.trainer = TaskTrainer(Noise(), data, settings, run, seed=0)
        layout, spec = Layout(tuple(size for _, size in self.trainer.layout)), algorithm(compressor)
        self.learner = VectorLearner(spec, layout, spec.initial(self.trainer.initial()), 0, "bench")

    def play(self, t: int, watch: Stopwatch) -> None:
        """One round. What is not the local step is one figure."""
        began = time.thread_time()
        z = self.learner.start().read(self.trainer.staging)
        with watch.running("local step"):
            step = self.trainer.train(t, z)
        data, u = self.learner.compress_update(t, LocalUpdate(step.vector, step.is_difference))
        self.learner.mix_round(0.5, [self.learner.read(t, 0.5, u, data)])
        self.learner.discard_sent(t)
        whole = 1000 * (time.thread_time() - began)
        watch.times["exchange"].append(whole - watch.times["local step"][-1])


def rounds() -> Iterator[Measurement]:
    """A round with each compressor, in turn, so that a disturbance hits all of them."""
    nodes = {name: (_Rounds(compressor), Stopwatch()) for name, compressor in COMPRESSORS.items()}
    for t in range(_WARM_UP + _ROUNDS):
        for node, watch in nodes.values():
            if t == _WARM_UP:  # until the error has grown
                watch.times.clear()
            node.play(t, watch)
    steps = [ms for _, watch in nodes.values() for ms in watch.times["local step"]]
    yield Measurement("round", f"local step of {NETWORK}, a batch of {_BATCH}", steps, "ms")
    for name, (_, watch) in nodes.items():
        step, exchange = watch.times["local step"], watch.times["exchange"]
        yield Measurement("round", f"exchange beside it, {name}", exchange, "ms")
        shares = [100 * a / b for a, b in zip(exchange, step, strict=True)]
        yield Measurement("round", f"the same, share of the local step, {name}", shares, "%")
