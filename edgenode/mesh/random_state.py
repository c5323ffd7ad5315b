"""The state of every random generator that a training loop draws from by default: torch's, numpy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture(generators: Sequence[torch.Generator]) -> dict[str, Any]:
    """The state now, of the global generators and of these."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "own": [generator.get_state() for generator in generators],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore(state: dict[str, Any], generators: Sequence[torch.Generator]) -> None:
    """Go back to a captured state. Another number of GPUs or of generators keeps theirs."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for generator, own in zip(generators, state["own"], strict=False):
        generator.set_state(own)
    if torch.cuda.is_available() and len(state.get("cuda", ())) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def preserved(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Draw in the body without an effect on what is drawn after it."""
    state = capture(generators)
    try:
        yield
    finally:
        restore(state, generators)
