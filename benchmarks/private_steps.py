"""What a step of DP-SGD costs beside a plain step: processor time, and peak memory.

    python benchmarks/private_steps.py

Each measurement is a process with one thread, which trains on random images. Plain and private ones take turns. Printed
are the median and the range of the runs: ms of processor time per step, and MiB of the peak above the memory that the
process has before its first step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgenode
from edgenode.tasks import models
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.noisy_steps import Privacy
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import RunLength
from edgenode.tasks.trainer import TaskTrainer

_SHAPES = {"small-cnn": (1, 28), "resnet20": (3, 32)}  # channels and width of an image
_SAMPLES, _CLASSES = 1024, 10


class Images(edgenode.Task):
    """A built-in model and random images."""

    def __init__(self, name: str) -> None:
        self._name, (self._channels, self._width) = name, _SHAPES[name]

    def model(self) -> nn.Module:
        return models.build(self._name, _CLASSES, self._channels, self._width, "group")

    def train_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        images = torch.randn(_SAMPLES, self._channels, self._width, self._width)
        return TensorDataset(images, torch.arange(_SAMPLES) % _CLASSES)


def mebibytes(key: str) -> float:
    """A line of /proc/self/status: VmRSS is resident now, VmHWM was at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def measure(name: str, batch: int, private: bool, steps: int) -> tuple[float, float]:
    """Return the processor time of a step in ms, and the memory that steps take at most in MiB."""
    torch.set_num_threads(1)
    task = Images(name)
    data = LocalData.whole(task.train_data(edgenode.NodeInfo("n")))
    privacy = Privacy(epsilon=None, delta=1e-5, noise=1.0, clip_norm=1.0) if private else None
    trainer = TaskTrainer(task, data, TrainSettings(batch_size=batch), RunLength(steps, 1), seed=0, privacy=privacy)
    z = trainer.initial()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = mebibytes("VmRSS")
    trainer.train(0, z.copy())
    began = time.process_time()
    for t in range(1, steps):
        trainer.train(t, z.copy())
    return 1e3 * (time.process_time() - began) / (steps - 1), mebibytes("VmHWM") - before


def in_a_process(name: str, batch: int, private: bool, steps: int) -> tuple[float, float]:
    """The same, in a new process."""
    words = [sys.executable, __file__, "--one", json.dumps([name, batch, private, steps])]
    milliseconds, memory = json.loads(subprocess.check_output(words, text=True))
    return milliseconds, memory


def show(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    print("| model | batch | ms, plain | ms, private | times | MiB, plain | MiB, private |")
    print("|---|---|---|---|---|---|---|")
    for name in _SHAPES:
        for batch in (32, 128):
            runs = [[in_a_process(name, batch, p, options.steps) for p in (False, True)] for _ in range(options.runs)]
            plain, private = zip(*runs, strict=True)
            (plain_ms, plain_mib), (private_ms, private_mib) = zip(*plain, strict=True), zip(*private, strict=True)
            times = statistics.median(private_ms) / statistics.median(plain_ms)
            cells = (show(plain_ms), show(private_ms), f"{times:.1f}", show(plain_mib), show(private_mib))
            print(f"| {name} | {batch} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
