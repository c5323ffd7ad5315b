"""What the masks of an exchange cost a node: processor time, and bytes.

    python benchmarks/masked.py

Printed are the ms of processor time to make the message with and without masks, as the median and the range of the
runs, and the bytes of one message beside DiLoCo's 2 bits.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.extensions import QUANTISE, Compressor, Layout, State, codec, keep_all
from edgenode_lab.algorithms.masked import MASKED, MaskedSum, PairwiseMasks

_LAYOUT = Layout((1_000_000,))
_BITS = 4


def state(rng: np.random.Generator) -> State:
    """A node after its local steps."""
    found = State.initial(rng.normal(size=_LAYOUT.size).astype(np.float32), list(MASKED.keeps))
    found.kept["start"][:] = found.x
    found.kept["change"][:] = rng.normal(scale=0.02, size=_LAYOUT.size)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    change, compressor = state(rng), Compressor(keep_all, QUANTISE["fitted2"])
    plain = len(codec.encode(compressor(change.kept["change"], _LAYOUT, rng), _LAYOUT))
    print("| nodes | ms, masked | ms, plain | bytes, masked | bytes, 2 bits |\n|---|---|---|---|---|")
    for nodes in (3, 4, 7):
        names = [f"node-{i}" for i in range(nodes)]
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}
        public = {name: key.public_key() for name, key in keys.items()}
        cells = []
        for masks in (PairwiseMasks(names[0], keys[names[0]], public, "run"), None):
            times = []
            for _ in range(options.runs):
                began = time.process_time()
                payload = MaskedSum(nodes, _BITS, masks).compress(change, compressor, _LAYOUT, rng)
                times.append(1e3 * (time.process_time() - began))
            cells.append(f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})")
            if masks is not None:
                size = len(codec.encode(payload, _LAYOUT))
        print(f"| {nodes} | {' | '.join(cells)} | {size:,} | {plain:,} |", flush=True)


if __name__ == "__main__":
    main()
