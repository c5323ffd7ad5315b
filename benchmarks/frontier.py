"""Accuracy against bytes on the digits, with few and unlike samples on every node, for docs/results.md.

python benchmarks/frontier.py                                   # seeds 0 to 2
python benchmarks/frontier.py 3 4 5 6                           # the seeds that the learning rate was chosen on
python benchmarks/frontier.py 3 4 5 6 --schedule steps --learning-rate 0.05      # constant

Four nodes on ring a train an MLP of 26,122 parameters for 180 steps, on data that is cut by a Dirichlet distribution
with alpha = 0.1. A row has the mean accuracy over nodes and seeds after SCSP's last phase, that of the worst node of
any seed, the mean before the last phase (SP), and the payload bytes that a node sends, headers and last phase included.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import mean, stdev

from torch import nn

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation
from edgenode.tasks.image_task import ImageTask

STEPS = 180
SHARED: Mapping[str, object] = {
    "task.entry": "frontier:Digits",
    "task.data": "cut",
    "task.alpha": 0.1,
    "run.threads": 1,
    "algorithm.gossip_graph": "one-peer-exponential",
}
ROWS: Mapping[str, Mapping[str, object]] = {
    "uncompressed": {"compressor": "identity", "values": "float32"},
    "uncompressed, balanced": {"compressor": "identity", "values": "float32", "loss": "balanced"},
    "top-1%, int8": {},
    "rolling 10%, int8": {"compressor": "rolling", "share": 0.1},
    "rolling 10%, int8, last phase int8": {"compressor": "rolling", "share": 0.1, "gossip_values": "int8"},
    "rolling 20%, fitted4, last phase int8": {"compressor": "rolling", "share": 0.19, "values": "fitted4"},
    "rolling 40%, fitted2, last phase int8": {"compressor": "rolling", "share": 0.4, "values": "fitted2"},
    "rolling 40%, fitted2, last phase int8, balanced": {
        "compressor": "rolling", "share": 0.4, "values": "fitted2", "loss": "balanced",
    },
    "rolling 80%, fitted1, last phase int8": {"compressor": "rolling", "share": 0.8, "values": "fitted1"},
    "rolling 20%, fitted2, last phase int8": {"compressor": "rolling", "share": 0.2, "values": "fitted2"},
    "all, fitted2, 3 local steps, last phase int8": {"compressor": "identity", "values": "fitted2", "local_steps": 3},
}  # fmt: skip


class Digits(ImageTask):
    """The digits with an MLP."""

    def __init__(self) -> None:
        super().__init__("digits")

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )


def settings(name: str, row: Mapping[str, object]) -> dict[str, object]:
    """The keys of run.toml of a row."""
    keys = {f"{'task' if key in ('loss', 'local_steps') else 'algorithm'}.{key}": value for key, value in row.items()}
    if "last phase int8" in name:
        keys["algorithm.gossip_values"] = "int8"
    rounds = STEPS // int(str(row.get("local_steps", 1)))
    return {**SHARED, "run.rounds": rounds, "run.evaluate_every": rounds, **keys}


def main(seeds: list[int], learning_rate: float, schedule: str) -> None:
    print("| recipe | SCSP | worst node | SP | MB a node |\n|---|---|---|---|---|")
    for name, row in ROWS.items():
        after, worst, before, sent = [], [], [], 0.0
        for seed in seeds:
            given = {**settings(name, row), "run.seed": seed}
            given |= {"task.learning_rate": learning_rate, "task.schedule": schedule}
            simulation = Simulation(load(None, given, environ={}))
            result = simulation.run()
            accuracies = [100 * node["test_accuracy"] for node in result["nodes"]]
            after.append(mean(accuracies))
            worst.append(min(accuracies))
            before.append(100 * (simulation.before_gossip() or result)["mean_test_accuracy"])
            sent = result["nodes"][0]["payload_bytes"] / 1e6
        spread = f" ± {stdev(after):.2f}" if len(after) > 1 else ""
        print(
            f"| {name} | {mean(after):.2f}{spread} | {min(worst):.1f} | {mean(before):.2f} | {sent:.3f} |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--schedule", choices=("cosine", "steps"), default="cosine")
    chosen = parser.parse_args()
    main(chosen.seeds, chosen.learning_rate, chosen.schedule)
