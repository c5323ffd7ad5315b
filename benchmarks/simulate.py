"""The cost of a simulated node: time per round and peak memory against the number of nodes.

    python benchmarks/simulate.py 4 16 64 256 1024

Each size runs in a process of its own and prints one row of a Markdown table: SP at top-1 % on the digits with
batches of one image, so that 1024 nodes have enough to train on. The graph is ring a, or that of --graph.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

ROUNDS = 6


def measure(nodes: int, graph: str) -> tuple[float, float, float, float]:
    """Seconds until the first round is complete, seconds and CPU seconds per further round, and peak resident MiB.

    Other work on the machine increases the seconds, and hardly the CPU seconds.
    """
    settings = {
        "run.nodes": nodes, "run.rounds": ROUNDS, "run.evaluate_every": 0, "run.threads": 1, "task.batch_size": 1,
        "algorithm.name": "sp", "topology.graphs": [graph],
    }  # fmt: skip
    began = time.monotonic()
    simulation = Simulation(load(None, settings, environ={}))
    completed: list[tuple[float, float]] = []
    simulation.run(lambda: completed.append((time.monotonic(), time.process_time())))
    (first_s, first_cpu_s), (last_s, last_cpu_s) = completed[0], completed[-1]
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return first_s - began, (last_s - first_s) / (ROUNDS - 1), (last_cpu_s - first_cpu_s) / (ROUNDS - 1), peak_mib


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="+", type=int)
    parser.add_argument("--graph", default="a")
    options = parser.parse_args()
    print("| nodes | until round 1, s | per round, s | CPU per round, s | per node, ms | peak memory, MiB |")
    print("|---|---|---|---|---|---|")
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        for n in options.nodes:
            first_s, round_s, cpu_s, peak_mib = pool.submit(measure, n, options.graph).result()
            times = f"{first_s:.1f} | {round_s:.3f} | {cpu_s:.3f} | {1000 * cpu_s / n:.2f}"
            print(f"| {n} | {times} | {peak_mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
