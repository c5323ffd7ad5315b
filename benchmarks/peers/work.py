"""The work that all peers share, in plain torch and NumPy: model, data, steps, evaluation, and what is recorded.

Every peer runs in a virtual environment of its own, so this module imports nothing of edgenode. A process is started as
``python PEER.py RANK FOLDER``. The folder has `job.json`, a shard of the data for each rank, and the test data. The
process appends one line to `RANK.jsonl` for each evaluation.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LINK = Path("/sys/class/net/eth0/statistics")  # of this process' network namespace


@dataclass
class Job:
    """One run of one peer.

    Attributes:
        model: "mlp" or "small-cnn".
        hosts: the address of each rank, and of one more host, for a server.
        local_steps: between two averages, of peers that average models.
        variant: which of the settings that a peer has.
    """

    model: str
    hosts: list[str]
    steps: int
    batch: int
    learning_rate: float
    evaluate_every: int
    local_steps: int
    variant: str
    folder: Path = field(default=Path(), compare=False)

    @classmethod
    def read(cls, folder: Path) -> Job:
        return cls(**json.loads((folder / "job.json").read_text()), folder=folder)

    @property
    def nodes(self) -> int:
        return len(self.hosts) - 1


def process() -> tuple[int, Job]:
    """The rank and the job of this process."""
    torch.set_num_threads(1)
    return int(sys.argv[1]), Job.read(Path(sys.argv[2]))


class ChannelsLast(nn.Module):
    """Lays images out with their channels last, which takes a quarter off the time of the gradient on a CPU."""

    def forward(self, images: Tensor) -> Tensor:
        return images.to(memory_format=torch.channels_last)


def build(name: str) -> nn.Module:
    """The model, with the same weights in every process."""
    torch.manual_seed(0)
    if name == "mlp":  # 26,122 parameters on images of 8 x 8
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
    layers: list[nn.Module] = [ChannelsLast()]  # 17,098 parameters on images of 28 x 28
    for before, after in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(after // 4, after), nn.MaxPool2d(2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 9, 10))


def optimiser(job: Job, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, job.learning_rate, momentum=0.9, weight_decay=1e-4)


def samples(job: Job, name: str) -> tuple[Tensor, Tensor]:
    """Images, about 0 to 1, and their labels: "test", or the rank of a shard."""
    with np.load(job.folder / f"{name}.npz") as arrays:
        return torch.from_numpy(arrays["images"]).float(), torch.from_numpy(arrays["labels"])


def bytes_of_link() -> int:
    """What the link of this host has sent and received."""
    return sum(int((LINK / name).read_text()) for name in ("tx_bytes", "rx_bytes"))


class Record:
    """Writes the accuracy after some steps, with the seconds and the bytes since the first step.

    Evaluations do not count: they are for the comparison, and take as long as the steps between them.
    """

    def __init__(self, rank: int, job: Job) -> None:
        self._file = (job.folder / f"{rank}.jsonl").open("a")
        self._began: tuple[float, int] | None = None
        self._evaluating = 0.0

    def begin(self) -> None:
        """The first step begins, if it has not yet."""
        if self._began is None:
            self._began = time.perf_counter(), bytes_of_link()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """The time in it does not count."""
        began = time.perf_counter()
        yield
        self._evaluating += time.perf_counter() - began

    def add(self, step: int, accuracy: float) -> None:
        if self._began is None:
            return
        began, sent = self._began
        seconds = time.perf_counter() - began - self._evaluating
        line = {"step": step, "s": seconds, "bytes": bytes_of_link() - sent, "accuracy": accuracy}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Training:
    """The local steps of one rank, and their record."""

    def __init__(self, rank: int, job: Job) -> None:
        self.job, self.step, self.record = job, 0, Record(rank, job)
        self._images, self._labels = samples(job, str(rank))
        self._test_images, self._test_labels = samples(job, "test")
        self._random = torch.Generator().manual_seed(rank)

    def loss(self, model: nn.Module) -> Tensor:
        """The loss of the next batch."""
        self.record.begin()
        self.step += 1
        chosen = torch.randint(len(self._labels), (self.job.batch,), generator=self._random)
        return nn.functional.cross_entropy(model(self._images[chosen]), self._labels[chosen])

    def take(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """One local step."""
        optimizer.zero_grad()
        self.loss(model).backward()
        optimizer.step()

    def evaluate_if_due(self, model: Any) -> None:
        """Measure and record the accuracy of the model, every `evaluate_every` steps."""
        if self.step % self.job.evaluate_every == 0:
            model.eval()
            with self.record.evaluation(), torch.no_grad():
                right = (model(self._test_images).argmax(1) == self._test_labels).float().mean()
            model.train()
            self.record.add(self.step, float(right))
