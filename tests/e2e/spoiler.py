"""A member whose mask of round 3 is one of another run: `python spoiler.py run --config run.toml ...`."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm.masked_sum import MaskedSum

honest = MaskedSum.__init__


def spoiled(self: MaskedSum, nodes: int, bits: int, masks: Any) -> None:
    def wrong(t: int, size: int, modulus: int) -> Any:
        return masks(t, size, modulus) if t != 3 else np.random.default_rng(0).integers(0, modulus, size)

    honest(self, nodes, bits, wrong)


if __name__ == "__main__":
    MaskedSum.__init__ = spoiled  # type: ignore[method-assign]
    main()
