"""Every random number of a task, as a pure function of a seed and a path of integers.

No module of this package depends on the state of a global generator, or changes it. A resumed run therefore needs only
its round number to draw the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """The purpose of random numbers. Each purpose has its own stream."""

    INITIAL = 1
    PARTITION = 2
    ORDER = 3
    STEP = 4
    VALIDATION = 5


def _sequence(seed: int, stream: Stream, *path: int) -> np.random.SeedSequence:
    # SeedSequence accepts no negative integers. Wrapping to 64 bits keeps -1 and 1 distinct.
    return np.random.SeedSequence((seed & 0xFFFF_FFFF_FFFF_FFFF, int(stream), *path))


def shuffler(seed: int, stream: Stream, *path: int) -> np.random.RandomState:
    """Return a numpy generator for `path`.

    RandomState and not Generator: its streams are frozen, so that devices with different numpy releases compute the
    same shards.
    """
    return np.random.RandomState(np.random.MT19937(_sequence(seed, stream, *path)))


def torch_seed(seed: int, stream: Stream, *path: int) -> int:
    """Return a 64-bit seed for a torch generator."""
    return int(_sequence(seed, stream, *path).generate_state(1, np.uint64)[0])


@contextmanager
def seeded(value: int, device: torch.device | None = None, *, torch_alone: bool = False) -> Iterator[None]:
    """Run a block with the global generators seeded by `value`, and restore their state afterwards.

    Modules such as Dropout, and the transforms of data sets, accept no other generator. With `torch_alone`, this does
    not touch those of numpy and `random`.

    `torch.manual_seed` is not used, because without CUDA each call formats a stack trace.
    """
    accelerator = None if device is None else {"cuda": torch.cuda, "mps": torch.mps}.get(device.type)
    others = None if torch_alone else (random.getstate(), np.random.get_state())
    cpu_state = torch.get_rng_state()
    accelerator_state = accelerator.get_rng_state() if accelerator else None
    try:
        torch.default_generator.manual_seed(value)
        if accelerator:
            accelerator.manual_seed(value)
        if others is not None:
            random.seed(value)
            np.random.seed(value % 2**32)
        yield
    finally:
        torch.set_rng_state(cpu_state)
        if accelerator and accelerator_state is not None:
            accelerator.set_rng_state(accelerator_state)
        if others is not None:
            random.setstate(others[0])
            np.random.set_state(others[1])
