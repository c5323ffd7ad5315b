"""How much longer or shorter a local step takes with `task.memory_format = "channels_last"`, on one thread.

    python benchmarks/memory_format.py                                   # seven networks: two minutes
    python benchmarks/memory_format.py mobilenet_v2 --size 224 --batch 8

The images are noise. Both formats take turns, and each figure is the median of their processor times, in ms. To measure
a model of one's own on one's own board: `edgenode doctor --config run.toml`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import TensorDataset

from edgenode.tasks import models
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength, Task
from edgenode.tasks.trainer import TaskTrainer

FORMATS = "contiguous", "channels_last"


class Work(NamedTuple):
    """A network, and its images [batch, channels, size, size]."""

    network: str
    channels: int
    size: int
    batch: int


WORK = (
    Work("small-cnn", 1, 28, 32),
    Work("resnet20", 3, 32, 32),
    Work("vgg11", 3, 32, 32),
    Work("mobilenet_v2", 3, 96, 16),
    Work("mobilenet_v3_small", 3, 96, 16),
    Work("squeezenet1_1", 3, 96, 16),
    Work("resnet18", 3, 96, 16),
)


class Noise(Task):
    """A network on noise."""

    def __init__(self, work: Work, norm: str) -> None:
        self._work, self._norm = work, norm

    def model(self) -> nn.Module:
        network, channels, size, _ = self._work
        return models.build(network, 10, channels, size, self._norm)

    def train_data(self, node: NodeInfo) -> TensorDataset:
        _, channels, size, batch = self._work
        return TensorDataset(torch.rand(batch, channels, size, size), torch.arange(batch) % 10)


def step_ms(work: Work, norm: str, steps: int) -> list[float]:
    """The median time of a step in each format."""
    task = Noise(work, norm)
    data, run = LocalData.whole(task.train_data(NodeInfo("node-0"))), RunLength(1, 1)
    settings = [TrainSettings(batch_size=work.batch, memory_format=chosen) for chosen in FORMATS]
    trainers = [TaskTrainer(task, data, chosen, run, seed=0) for chosen in settings]
    z, found = trainers[0].initial(), [list[float](), list[float]()]
    for t in range(1 + steps):
        for trainer, times in zip(trainers, found, strict=True):
            began = time.thread_time()
            trainer.train(t, z.copy())
            times.append(1e3 * (time.thread_time() - began))
    return [statistics.median(times[1:]) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help="default: seven networks")
    parser.add_argument("--size", type=int, default=96, help="of the colour images, for networks that are named")
    parser.add_argument("--batch", type=int, default=16, help="likewise")
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}\n\n| network | images | norm | {FORMATS[0]}, ms | {FORMATS[1]}, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for work in [Work(name, 3, asked.size, asked.batch) for name in asked.networks] or WORK:
        for norm in models.NORMS:
            plain, last = step_ms(work, norm, asked.steps)
            images = f"{work.batch} of {work.channels} x {work.size} x {work.size}"
            print(f"| {work.network} | {images} | {norm} | {plain:.1f} | {last:.1f} | {last / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
