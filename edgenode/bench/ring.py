"""A ring of real nodes on this machine: processes that talk over gRPC with TLS, as the devices of a run do."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from edgenode.addresses import free_ports
from edgenode.bench import CLUSTER, Measurement, name_of
from edgenode.bench.ring_node import SEGMENT, Found, Order, Run
from edgenode.errors import EdgenodeError
from edgenode.security import local

NODES = 4
SIZES = {"43 bytes": 9, "2.6 kB": 650, "1.08 MB": 270_000}  # a push has four bytes for each parameter, and a header
LARGE = "1.08 MB"
_LARGE_FROM = 100_000
_ENVIRON = {"OMP_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}


def play(sizes: Sequence[str], show: Callable[[str], None], segment: int = SEGMENT) -> dict[str, list[Found]]:
    """Run the ring once with each size. Return what each node found.

    Args:
        show: takes what is measured now.

    Raises:
        EdgenodeError: a node failed.
    """
    with tempfile.TemporaryDirectory(prefix="edgenode-bench-") as name:
        folder = Path(name)
        local.prepare(folder, CLUSTER, map(name_of, range(NODES)))
        ports = free_ports(NODES * len(sizes))
        runs = tuple(
            Run(SIZES[size], max(2, segment // 4) if SIZES[size] > _LARGE_FROM else segment,
                tuple(ports[i * NODES : (i + 1) * NODES]))
            for i, size in enumerate(sizes)
        )  # fmt: skip
        show(f"ring: {NODES} nodes start")
        with _processes(folder, runs) as processes:
            found = {}
            for size in sizes:
                show(f"ring: {NODES} nodes, {size} a push")
                found[size] = [_line(process, folder, index) for index, process in enumerate(processes)]
            return found


def rates(found: dict[str, list[Found]]) -> Iterator[Measurement]:
    """Rounds per second, and the processor time of a round, for each size."""
    for size, nodes in found.items():
        walls = [statistics.mean(segment) for segment in zip(*(node.wall_ms for node in nodes), strict=True)]
        yield Measurement("ring", f"{NODES} nodes, {size} a push", [1000 / wall for wall in walls], "rounds/s")
        cpu = [statistics.mean(segment) for segment in zip(*(node.cpu_ms for node in nodes), strict=True)]
        yield Measurement("ring", f"processor time of a node, {size} a push", cpu, "ms/round")


def memory(nodes: Sequence[Found], parameters: int) -> Iterator[Measurement]:
    """Resident memory of a node, before its run and at most."""
    idle = [node.idle_bytes / 1e6 for node in nodes]
    peak = [node.peak_bytes / 1e6 for node in nodes if node.peak_bytes is not None]
    yield Measurement("memory", "a node before its run, torch and gRPC loaded", idle, "MB")
    if peak:
        yield Measurement("memory", f"at most, {parameters:,} parameters sent whole", peak, "MB")


@contextmanager
def _processes(folder: Path, runs: tuple[Run, ...]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The nodes, which end with the block. They also end if this process is killed."""
    with ExitStack() as stack:
        running = []
        for index in range(NODES):
            order = msgspec.json.encode(Order(index, str(folder), runs)).decode()
            log = stack.enter_context((folder / f"{index}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "edgenode.bench.ring_node", order],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=os.environ | _ENVIRON,
                start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            running.append(process)
        yield running


def _line(process: subprocess.Popen[bytes], folder: Path, index: int) -> Found:
    assert process.stdout is not None
    if line := process.stdout.readline():
        return msgspec.json.decode(line, type=Found)
    log = (folder / f"{index}.log").read_text(errors="replace").strip().splitlines() or ["its log is empty"]
    raise EdgenodeError(f"node {name_of(index)} of the ring ended: {log[-1]}")
