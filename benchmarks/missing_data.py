"""What the data of one node of eight are worth: seven nodes train on the shards that they have in a run of eight.

    python benchmarks/missing_data.py --seeds 5

It is what `edgenode experiment honest` plays (eight nodes, the digits, the graph `complete`), without the last node and
its shard. It prints the mean test accuracy of the seven nodes for each seed.
"""

from __future__ import annotations

import argparse
import sys
from statistics import mean

from torch import Tensor

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation
from edgenode.tasks import local_data
from edgenode.tasks.partition import partition

SETTINGS = {
    "run.nodes": 7, "run.rounds": 200, "run.evaluate_every": 10, "run.threads": 1, "run.device": "cpu",
    "task.dataset": "digits", "task.model": "small-cnn", "task.learning_rate": 0.02, "algorithm.name": "scsp",
    "algorithm.compressor": "topk", "algorithm.share": 0.01, "algorithm.gossip_graph": "plan",
    "topology.graphs": ["complete"],
}  # fmt: skip


def without_the_last(labels: Tensor, shards: int, skew: float, seed: int) -> list[Tensor]:
    """Partition for one node more, and leave its shard out."""
    return partition(labels, shards + 1, skew, seed)[:shards]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--skew", type=float, default=0.8)
    options = parser.parse_args()
    local_data.partition = without_the_last
    for seed in range(options.seeds):
        config = load(None, {**SETTINGS, "task.skew": options.skew, "run.seed": seed}, environ={})
        nodes = Simulation(config).run()["nodes"]
        print(f"seed {seed}: {100 * mean(node['test_accuracy'] for node in nodes):.2f} %", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
