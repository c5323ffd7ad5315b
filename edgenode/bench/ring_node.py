"""One node of the ring of `edgenode bench`, as a process: ``python -m edgenode.bench.ring_node ORDER``.

Its local step costs nothing, so what it takes is what edgenode takes. It performs one run after the other and prints a
line of JSON for each. When its standard input ends, because the command has ended, it exits at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
from torch import Tensor

from edgenode.bench import CLUSTER, name_of
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.evaluation import NOT_TESTED, Evaluation
from edgenode.node.background import Worker, WorkerThread
from edgenode.node.credentials import node_security
from edgenode.node.node_options import node_options
from edgenode.node.node_process import NodeProcess, run_node
from edgenode.node.resources import keep_freed_memory, peak_memory_bytes
from edgenode.node.workload import ModelSize
from edgenode.observability.logs import set_up_logging
from edgenode.tasks.trainer import LocalStep

SEGMENTS, SEGMENT = 5, 40
"""Segments that are measured, and the rounds of each. Half a segment warms up."""


@dataclass(frozen=True)
class Run:
    """One run of the ring: what to send, and the port of each node."""

    parameters: int
    segment: int
    ports: tuple[int, ...]

    @property
    def rounds(self) -> int:
        return self.segment // 2 + SEGMENTS * self.segment + 1


@dataclass(frozen=True)
class Order:
    """The runs of a process. ``folder`` has the credentials of each node."""

    index: int
    folder: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Found:
    """The measurements of a node in a run.

    Attributes:
        cpu_ms: processor time of a round, in each segment. `wall_ms` likewise.
        idle_bytes: resident memory before the first run, with torch and gRPC loaded.
        peak_bytes: the most resident memory so far. None if the system does not report it.
    """

    cpu_ms: tuple[float, ...]
    wall_ms: tuple[float, ...]
    idle_bytes: int
    peak_bytes: int | None


class FreeSteps:
    """A trainer whose local step changes nothing. It notes when each segment begins and ends."""

    remedy, samples, metadata, tests_alike = "", 1, dict[str, str](), True

    def __init__(self, run: Run) -> None:
        self.layout, self.size, self.rounds_per_epoch = (("w", run.parameters),), run.parameters, run.rounds
        self.parameter_counts = run.parameters, 0
        self._zeros, self._run = np.zeros(run.parameters, np.float32), run
        self.staging = np.empty_like(self._zeros)
        self.stamps: list[tuple[float, float]] = []

    def initial(self) -> Floats:
        return self._zeros

    def train_until(self, t: int) -> None:
        pass

    def train(self, t: int, z: Floats) -> LocalStep:
        counted = t - self._run.segment // 2
        if counted >= 0 and counted % self._run.segment == 0:
            self.stamps.append((time.process_time(), time.perf_counter()))
        return LocalStep(self._zeros, None, is_difference=True)

    def evaluate(self, z: Floats) -> Evaluation:
        return NOT_TESTED

    def untrained(self) -> Floats:
        return self._zeros

    def loss(self, z: Floats) -> None:
        return None

    def measure_statistics(self, z: Floats) -> None:
        pass

    def local_state(self, read: threading.Event | None = None) -> dict[str, Any]:
        return {}

    def load_local_state(self, state: Mapping[str, Any]) -> None:
        pass

    def named_tensors(self, z: Floats) -> dict[str, Tensor]:
        return {}


class FreeWork:
    """The workload of one run: free steps for everybody."""

    makes_own_model = False

    def __init__(self, run: Run) -> None:
        self.steps = FreeSteps(run)

    def identity(self) -> Mapping[str, str]:
        return {}

    def prepare(self) -> DataSize:
        return DataSize(1, 1)

    def model_size(self) -> ModelSize:
        return ModelSize(self.steps.size, 0, 8 * self.steps.size)

    def trainer(self, name: str, initial_members: Sequence[str], epoch: Epoch) -> FreeSteps:
        return self.steps

    def worker(self) -> Worker:
        return WorkerThread()


def config_of(run: Run) -> Config:
    """The configuration of a run: every node sends its whole model to the next."""
    settings = {
        "run.cluster": CLUSTER, "run.nodes": len(run.ports), "run.rounds": run.rounds, "run.evaluate_every": 0,
        "run.checkpoint_every": 10 * run.rounds, "algorithm.name": "d-psgd", "topology.graphs": ["a"],
    }  # fmt: skip
    return load(None, settings, environ={})


def play(
    order: Order, run: Run, begins: Callable[[NodeProcess], None] = lambda _: None
) -> Sequence[tuple[float, float]]:
    """Take part in a run. Return processor time and time at the ends of the segments, in seconds.

    Args:
        begins: called when the node process begins.
    """
    addresses = [f"127.0.0.1:{port}" for port in run.ports]
    name, work = name_of(order.index), FreeWork(run)
    options = node_options(
        config_of(run), name, listen=addresses[order.index], peers=",".join(addresses),
        state_dir=Path(order.folder) / name, fresh=True,
    )  # fmt: skip
    keep_freed_memory()
    run_node(replace(options, security=node_security(options)), work, begins)
    return work.steps.stamps


def _per_round(stamps: Iterable[float], segment: int) -> tuple[float, ...]:
    found = np.diff(list(stamps))
    return tuple((1000 * found / segment).tolist())


def _exit_with_the_command() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    order = msgspec.json.decode(sys.argv[1], type=Order)
    threading.Thread(target=_exit_with_the_command, daemon=True).start()
    set_up_logging(verbose=False)
    idle = psutil.Process().memory_info().rss
    for run in order.runs:
        cpu, wall = zip(*play(order, run), strict=True)
        found = Found(_per_round(cpu, run.segment), _per_round(wall, run.segment), idle, peak_memory_bytes())
        print(msgspec.json.encode(asdict(found)).decode(), flush=True)


if __name__ == "__main__":
    main()
