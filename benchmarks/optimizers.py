"""What a step of AdamW and of Muon costs, beside the gradient of a batch of 32 images.

    python benchmarks/optimizers.py

Gradient and steps run in turn on one thread. Printed is the elapsed time in ms: the median of the runs, with the range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from edgenode.tasks import models
from edgenode.tasks.muon import MuonAndAdamW

_SHAPES = {"small-cnn": (1, 28), "resnet20": (3, 32), "vgg11": (3, 32)}  # channels and width of an image
_BATCH, _CLASSES, _UNTIMED = 32, 10, 2


def milliseconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def measure(name: str, runs: int) -> dict[str, list[float]]:
    """The times of the gradient and of the steps, by name."""
    torch.manual_seed(0)
    channels, width = _SHAPES[name]
    model = models.build(name, _CLASSES, channels, width, norm="group")
    images, labels = torch.randn(_BATCH, channels, width, width), torch.randint(_CLASSES, (_BATCH,))
    adamw, muon = torch.optim.AdamW(model.parameters(), lr=1e-4), MuonAndAdamW(model, 1e-4, 0.0)

    def differentiate() -> None:
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()

    work: dict[str, Callable[[], object]] = {"gradient": differentiate, "AdamW": adamw.step, "Muon": muon.step}
    times = [{part: milliseconds(call) for part, call in work.items()} for _ in range(_UNTIMED + runs)]
    return {part: [time[part] for time in times[_UNTIMED:]] for part in work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    for name in _SHAPES:
        parts = measure(name, runs).items()
        print(name, *(f"{p} {statistics.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for p, t in parts), sep="  ")


if __name__ == "__main__":
    main()
