"""An enrolled member that gives newcomers its own model times FACTOR: `python bad_sponsor.py FACTOR run ...`."""

from __future__ import annotations

import sys

import numpy as np

from edgenode.cli import main
from edgenode.core.algorithm.compression import Floats
from edgenode.node import replica
from edgenode.node.workload import Trainer

factor, packed = np.float32(sys.argv.pop(1)), replica.packed


def spoiled(trainer: Trainer, z: Floats) -> bytes:
    return packed(trainer, z * factor)


replica.packed = spoiled

if __name__ == "__main__":
    main()
