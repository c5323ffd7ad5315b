"""A node that keeps each message it makes: `python recorder.py run --config run.toml ...`.

It writes what a neighbour sees, and the mask that it cannot see, to a file for each process and round.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm.compression import Payload
from edgenode.core.algorithm.masked_sum import MaskedSum

FOLDER = Path("recorded")
honest = MaskedSum.compress


def recorded(self: MaskedSum, state: Any, *arguments: Any) -> Payload:
    masks, drawn = self._masks, []

    def keep(t: int, size: int, modulus: int) -> Any:
        drawn.append(masks(t, size, modulus))  # type: ignore[misc]
        return drawn[0]

    self._masks = keep
    payload = honest(self, state, *arguments)
    self._masks = masks
    FOLDER.mkdir(exist_ok=True)
    number = len(list(FOLDER.iterdir()))  # a process that begins again has the same id
    np.savez(FOLDER / f"{os.getpid()}-{number}-{state.round}.npz", message=payload.values.codes, mask=drawn[0])
    return payload


if __name__ == "__main__":
    MaskedSum.compress = recorded  # type: ignore[method-assign]
    main()
