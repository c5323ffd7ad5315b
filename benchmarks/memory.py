"""Resident memory of `edgenode run` with VGG-11 (38 MB) at top-1 %, above that of idle torch and gRPC.

    python benchmarks/memory.py

Four nodes train on 64 random images on loopback, each with one out-neighbour, then each with three. Every fifth round a
node is tested and writes a checkpoint. It prints the median over the second half of the run, the peak, and both above
the idle process, in MiB and in models: of the node that takes most, as the median and the range of the runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgenode
from edgenode.addresses import free_ports
from edgenode.config.load import load
from edgenode.tasks import models

NODES = 4
GRAPHS = {1: "a", 3: "complete"}  # by out-neighbours
MODEL_MIB = 4 * 9_750_922 / 2**20
_IDLE = "import torch, grpc.aio; print(open('/proc/self/status').read())"
_ENVIRON = {
    **os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE", "EDGENODE_INSECURE": "1", "EDGENODE_HTTP": "none",
    "PYTHONPATH": str(Path(__file__).parent),
}  # fmt: skip
_SAMPLE_S = 0.05


class Images(edgenode.Task):
    """VGG-11 and random images of the size of CIFAR's."""

    def model(self) -> nn.Module:
        return models.build("vgg11", 10, 3, 32)

    def train_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        return TensorDataset(torch.randn(64, 3, 32, 32), torch.arange(64) % 10)

    def test_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        return self.train_data(node)


def mebibytes(status: str, key: str) -> float:
    """A line of /proc/PID/status: VmRSS is resident now, VmHWM was at most."""
    (line,) = (line for line in status.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) / 1024


def idle() -> float:
    """Of a process that imports torch and gRPC."""
    return mebibytes(subprocess.check_output([sys.executable, "-c", _IDLE], text=True), "VmRSS")


def nodes(neighbours: int, rounds: int) -> tuple[float, float]:
    """Run the nodes. Return the steady memory and the peak of the one that takes most, in MiB."""
    settings = {
        "run.cluster": "memory", "run.nodes": NODES, "run.rounds": rounds, "run.evaluate_every": 5,
        "run.checkpoint_every": 5, "task.entry": "memory:Images", "algorithm.name": "sp", "algorithm.share": 0.01,
        "topology.graphs": [GRAPHS[neighbours]],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.toml"
        file.write_text(load(None, settings, environ={}).to_toml())
        addresses = [f"127.0.0.1:{port}" for port in free_ports(NODES)]
        logs = [Path(folder) / f"n{index}.log" for index in range(NODES)]
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "edgenode", "run", "--config", str(file), "--name", log.stem,
                 "--listen", address, "--peers", ",".join(addresses), "--state-dir", str(log.with_suffix(""))],
                stdout=log.open("w"), stderr=subprocess.STDOUT, env=_ENVIRON,
            )
            for log, address in zip(logs, addresses, strict=True)
        ]  # fmt: skip
        found = watch(running)
        for log, process in zip(logs, running, strict=True):
            if process.returncode:
                sys.exit(log.read_text())
    return max(steady for steady, _ in found), max(peak for _, peak in found)


def watch(running: Sequence[subprocess.Popen[bytes]]) -> list[tuple[float, float]]:
    """Steady memory and peak of each process, once all have ended."""
    samples: list[list[float]] = [[] for _ in running]
    peaks = [0.0] * len(running)
    while any(process.poll() is None for process in running):
        for index, process in enumerate(running):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                samples[index].append(mebibytes(status, "VmRSS"))
                peaks[index] = mebibytes(status, "VmHWM")
            except (OSError, ValueError):  # it has ended
                continue
        time.sleep(_SAMPLE_S)
    return [(statistics.median(own[len(own) // 2 :]), peak) for own, peak in zip(samples, peaks, strict=True)]


def show(values: Sequence[float], digits: int = 0) -> str:
    numbers = (statistics.median(values), min(values), max(values))
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(*numbers, d=digits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--neighbours", type=int, choices=list(GRAPHS), action="append", help="default: both")
    options = parser.parse_args()
    base = idle()
    print(f"idle, with torch and gRPC: {base:.0f} MiB; a model: {MODEL_MIB:.0f} MiB\n")
    print("| out-neighbours | | MiB | above idle, MiB | above idle, models |\n|---|---|---|---|---|")
    for neighbours in options.neighbours or GRAPHS:
        runs = [nodes(neighbours, options.rounds) for _ in range(options.runs)]
        for what, values in zip(("steady", "peak"), zip(*runs, strict=True), strict=True):
            above = [value - base for value in values]
            models = [value / MODEL_MIB for value in above]
            print(f"| {neighbours} | {what} | {show(values)} | {show(above)} | {show(models, 1)} |", flush=True)


if __name__ == "__main__":
    main()
