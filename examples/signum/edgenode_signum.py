"""Sign compression: a push carries one bit per parameter, and one magnitude per tensor.

edgenode adds what the signs leave out to the next push (error feedback), so signs lose nothing in the long run:
Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019.
"""

import numpy as np

from edgenode.extensions import Compressor, CompressorDefinition, Floats, Ints, Settings, Values, keep_all, per_tensor


def signs(numbers: Floats, counts: Ints, rng: np.random.Generator) -> Values:
    """Round each number to plus or minus the mean magnitude of its tensor."""
    magnitudes = per_tensor(np.add, np.abs(numbers), counts) / np.maximum(counts, 1)
    return Values(np.where(numbers < 0, -1, 1).astype(np.int8), bits=1, scales=magnitudes.astype(np.float32))


def build(settings: Settings) -> Compressor:
    """Every entry, as its sign. No key of [algorithm] changes that."""
    return Compressor(keep_all, signs)


SIGNUM = CompressorDefinition(build, kept=lambda settings: 0.1)  # measured: see README.md
