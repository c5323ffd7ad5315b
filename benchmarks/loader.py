"""Is the data the bottleneck? One thread, batches of 32 colour images of 32x32: the loader alone, and a gradient step.

    python benchmarks/loader.py [--data-dir FOLDER] [--precision bfloat16]

The loader gathers a batch of bytes, crops and flips it at random and normalises it. The step is ResNet-20's forward and
backward pass and the descent. Prints CPU time, which other work on the machine hardly increases. --data-dir is a folder
for the data set `imagefolder`. Without it the images are noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from edgenode.tasks.datasets import Dataset
from edgenode.tasks.folder_samples import ImageSamples
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import NodeInfo, RunLength
from edgenode.tasks.trainer import TaskTrainer


class Noise(ImageTask):
    """ResNet-20 on images of CIFAR's shape."""

    def __init__(self, count: int = 10_000) -> None:
        super().__init__(model="resnet20", augment=True)
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,))
        self._dataset = Dataset(images, labels, images[:100], labels[:100], 10, (127.5,) * 3, (73.6,) * 3)

    def train_data(self, node: NodeInfo) -> ImageSamples:
        return ImageSamples(self.dataset.train_images, self.dataset.train_labels)


def per_call_ms(call: Callable[[int], object], times: int) -> float:
    """CPU milliseconds of one call, the minimum of five series."""
    for t in range(3):
        call(t)
    series = []
    for _ in range(5):
        began = time.process_time()
        for t in range(times):
            call(t)
        series.append((time.process_time() - began) / times)
    return 1000 * min(series)


def main() -> None:
    """Print the two times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = ImageTask("imagefolder", "resnet20", augment=True) if options.data_dir else Noise()
    data = LocalData.whole(task.train_data(NodeInfo("node-0", options.data_dir)))
    trainer = TaskTrainer(task, data, TrainSettings(precision=options.precision), RunLength(1, 1), seed=0)
    z = trainer.initial()
    loader = per_call_ms(lambda t: task.prepared(trainer.batches.batch(t)), 100)
    step = per_call_ms(lambda t: trainer.train(t, z.copy()), 4) - loader
    print(f"loader {loader:.2f} ms, gradient step {step:.1f} ms: the loader is {step / loader:.0f} times as fast")


if __name__ == "__main__":
    main()
