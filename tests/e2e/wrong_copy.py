"""An enrolled member that makes copies for nodes which join an exchange: `python wrong_copy.py ADDED DELAY_S run ...`.

It adds a number to the momentum. A copy with 0 added is right.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from edgenode.cli import main
from edgenode.net.model_sender import Model
from edgenode.node import replica
from edgenode.node.common_copy import digest_of

added, delay_s = np.float32(sys.argv.pop(1)), float(sys.argv.pop(1))
copied = replica.copied


def changed(*of: Any) -> Model:
    time.sleep(delay_s)
    copy = load(copied(*of).data)
    copy["common.momentum"] += added
    return Model(save(copy), digest_of(copy))


replica.copied = changed

if __name__ == "__main__":
    main()
