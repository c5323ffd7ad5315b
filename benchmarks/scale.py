"""What grows with the number of nodes, measured on a few and extended to many, for docs/performance.md.

    python benchmarks/scale.py                     # plan and flood, computed: seconds
    python benchmarks/scale.py --daemons 4 16 64   # and the controller of real daemons: a minute each
    python benchmarks/scale.py --train 16 64       # and the nodes of real daemons: ten minutes a run

1. The size of a record of the plan, and the processor time that a node takes to check it when it is received.
2. The rounds that a record floods for until every member has it, by graph.
3. With --daemons: processor time and memory of the controller of real daemons. They are paused, because what they
   report does not depend on their rounds.
4. With --train: processor time of a node for a round of `edgenode demo`, its local step included, and how much of it
   its event loop takes. The controllers and the start do not count. Smaller numbers of nodes are measured twice: in one
   cluster, and in as many clusters at once as the largest number has room for. The last column is what a node takes
   by the clock, as for its reports to the controller: its processor time while the run is paused, for as long as a
   round takes.

Numbers beyond the measurements are extended, and marked with a star: on the line through the smallest and the largest
measurement, and for the controller by what a node and a report add, which takes three measurements.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from edgenode.cli.demo import demo_config
from edgenode.cli.demo_processes import DemoProcesses
from edgenode.config.sections import RunSection
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import MAX_MEMBERS, MAX_RECORD_BYTES, Member, Record
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.node.progress import report_every_s
from edgenode.security.local import CONTROLLER_FOLDER, OPERATOR

SIZES = (4, 16, 64, 256, 1024)
TARGET = 10_000
GRAPHS = ("a", "exponential", "one-peer-exponential")
_WARM_UP_S, _MEASURE_S, _TRAIN_S, _MOST_S = 3.0, 20.0, 60.0, 300.0
_WARM_UP_ROUNDS = 50  # connections, and mDNS
_EPOCH_DONE = re.compile(r"epoch done .*\bround=(\d+)")


def plan(nodes: int, graph: str) -> Plan:
    """A plan of nodes with addresses and keys, as a controller makes it."""
    keys = [sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(nodes)]
    members = [Member(f"node-{i:05d}", i + 1, f"10.0.{i // 250}.{i % 250}:7600", key) for i, key in enumerate(keys)]
    return create_plan("home", members, Schedule((GraphSpec(graph),), 1), run_id="0" * 32)


def plan_rows() -> None:
    """Part 1."""
    print("\n| members | record, bytes | ms to parse and check |\n|---|---|---|")
    sizes, times = [], []
    for nodes in SIZES:
        text, found = plan(nodes, "a").latest.to_json(), []
        for _ in range(5):
            began = time.process_time()
            Record.from_json(text)
            found.append(1000 * (time.process_time() - began))
        sizes.append(len(text))
        times.append(statistics.median(found))
        print(f"| {nodes} | {sizes[-1]:,} | {times[-1]:.2f} |")
    print(f"| {TARGET:,}* | {extended(SIZES, sizes):,.0f} | {extended(SIZES, times):.1f} |")
    print(f"\nLimits: {MAX_MEMBERS:,} members, {MAX_RECORD_BYTES:,} bytes a record.")


def flood_rows() -> None:
    """Part 2."""
    print("\n| members | " + " | ".join(GRAPHS) + " |\n|---|" + "---|" * len(GRAPHS))
    for nodes in SIZES:
        made = [plan(nodes, graph) for graph in GRAPHS]
        print(f"| {nodes} | " + " | ".join(str(reach(one, one.latest.names[0], 0)) for one in made) + " |")


def controller_rows(counts: Sequence[int]) -> None:
    """Part 3."""
    print("\n| nodes | controller, ms of processor time a second | MB |\n|---|---|---|")
    found = [controller(nodes) for nodes in counts]
    for nodes, (cpu_ms, mb) in zip(counts, found, strict=True):
        print(f"| {nodes} | {cpu_ms:.1f} | {mb:.1f} |")
    if len(counts) > 2:
        cpu_ms, mb = (solved(counts, column) for column in zip(*found, strict=True))
        for nodes in (MAX_MEMBERS, TARGET):
            print(f"| {nodes:,}* | {cpu_ms @ _terms(nodes):,.0f} | {mb @ _terms(nodes):,.0f} |")


def solved(counts: Sequence[int], values: Sequence[float]) -> NDArray[np.float64]:
    """What no node, one node and one report a second add to the values. Nodes report less often if there are many."""
    found: NDArray[np.float64] = np.linalg.lstsq(np.array([_terms(nodes) for nodes in counts]), np.array(values))[0]
    return found


def _terms(nodes: int) -> NDArray[np.float64]:
    return np.array([1.0, nodes, nodes / report_every_s(nodes, RunSection().evict_after_s)])


def controller(nodes: int) -> tuple[float, float]:
    """Processor time in ms a second, and resident MB, of the controller of real daemons."""
    with daemons(nodes) as (processes, folder):
        _pause(processes, folder)
        time.sleep(_WARM_UP_S)
        process = psutil.Process(processes.processes["controller"].pid)
        before = _cpu_s([process])
        time.sleep(_MEASURE_S)
        return 1000 * (_cpu_s([process]) - before) / _MEASURE_S, process.memory_info().rss / 1e6


def node_rows(counts: Sequence[int], runs: int) -> None:
    """Part 4. All rows are measured in turn, so that other work disturbs all of them."""
    rows = [(nodes, clusters) for nodes in counts for clusters in sorted({1, max(counts) // nodes})]
    found: dict[tuple[int, int], list[Cost]] = {row: [] for row in rows}
    for _ in range(runs):
        for nodes, clusters in rows:
            found[nodes, clusters].append(trained(nodes, clusters))
    print("\nOf a node, for a round: ms, and ms of processor time")
    print("\n| nodes of a cluster | clusters | ms | all | event loop | its waits | by the clock |\n" + "|---" * 7 + "|")
    for (nodes, clusters), costs in found.items():
        columns = zip(*costs, strict=True)
        cells = (f"{statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in columns)
        print(f"| {nodes} | {clusters} | {' | '.join(cells)} |")


class Cost(NamedTuple):
    """What a round of a node takes: time, processor time of it and of its event loop, and the waits of the loop.

    ``clock_ms`` is the processor time that the node takes in as much time while the run is paused.
    """

    round_ms: float
    cpu_ms: float
    loop_ms: float
    waits: float
    clock_ms: float


def trained(nodes: int, clusters: int) -> Cost:
    """What a round of a node takes, in clusters of so many nodes."""
    with ExitStack() as stack:
        running = [stack.enter_context(daemons(nodes)) for _ in range(clusters)]
        members = [psutil.Process(pid) for processes, _ in running for pid in _node_pids(processes)]
        while min(_round(processes) for processes, _ in running) < _WARM_UP_ROUNDS:
            time.sleep(_WARM_UP_S)
        first, before = sum(_round(processes) for processes, _ in running), _used(members)
        time.sleep(_TRAIN_S)
        last, after = sum(_round(processes) for processes, _ in running), _used(members)
        for processes, folder in running:
            _pause(processes, folder)
        time.sleep(_WARM_UP_S)
        paused = _cpu_s(members)
        time.sleep(_MEASURE_S)
        clock_share = (_cpu_s(members) - paused) / _MEASURE_S / len(members)
    cpu_s, loop_s, waits = (after - before) / (last - first) / nodes
    round_ms = 1000 * _TRAIN_S * clusters / (last - first)
    return Cost(round_ms, 1000 * cpu_s, 1000 * loop_s, waits, round_ms * clock_share)


@contextmanager
def daemons(nodes: int) -> Iterator[tuple[DemoProcesses, Path]]:
    """A controller and nodes that train, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="edgenode-scale-") as name:
        folder = Path(name)
        values = {"run.cluster": folder.name, "run.nodes": nodes, "run.rounds": 10_000_000, "run.log_every_s": 0}
        config = demo_config(values, environ={})
        (folder / "run.toml").write_text(config.to_toml())
        processes = DemoProcesses(config, folder)
        try:
            processes.start_controller()
            processes.start_nodes()
            _await_rounds(processes)
            yield processes, folder
        finally:
            processes.stop()


def _node_pids(processes: DemoProcesses) -> list[int]:
    return [one.pid for name, one in processes.processes.items() if name != "controller" and one.pid]


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def _used(processes: Sequence[psutil.Process]) -> NDArray[np.float64]:
    """Seconds of processor time, those of the main threads, and how often these have waited."""
    loops = [thread for process in processes for thread in process.threads() if thread.id == process.pid]
    loop_s = sum(thread.user_time + thread.system_time for thread in loops)
    return np.array([_cpu_s(processes), loop_s, sum(process.num_ctx_switches().voluntary for process in processes)])


def _round(processes: DemoProcesses) -> float:
    """The mean over the nodes of the last round that is in their logs. A status would wait for a busy processor."""
    logs = [processes.logs / f"{name}.log" for name in processes.processes if name != "controller"]
    return statistics.mean(int((_EPOCH_DONE.findall(log.read_text()) or ["0"])[-1]) for log in logs)


def _pause(processes: DemoProcesses, folder: Path) -> None:
    (target,) = re.findall(r"controller ready .*listen=(\S+)", (processes.logs / "controller.log").read_text())
    words = ["pause", "--controller", target, "--credentials", str(folder / CONTROLLER_FOLDER / OPERATOR)]
    subprocess.run([sys.executable, "-m", "edgenode", *words], check=True, capture_output=True)


def _await_rounds(processes: DemoProcesses) -> None:
    """Wait until every node trains."""
    deadline = time.monotonic() + _MOST_S
    logs = [processes.logs / f"{name}.log" for name in processes.processes if name != "controller"]
    while not all("run begins" in log.read_text() for log in logs):
        if (cause := processes.why_failed()) or time.monotonic() > deadline:
            raise SystemExit(cause or f"the nodes have not begun after {_MOST_S:.0f} s")
        time.sleep(0.2)


def extended(nodes: Sequence[int], values: Sequence[float]) -> float:
    """The value at ``TARGET`` nodes, on the line through the first and the last measurement."""
    slope = (values[-1] - values[0]) / (nodes[-1] - nodes[0])
    return values[0] + slope * (TARGET - nodes[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daemons", nargs="+", type=int, default=[], metavar="NODES")
    parser.add_argument("--train", nargs="+", type=int, default=[], metavar="NODES")
    parser.add_argument("--runs", type=int, default=3, help="of --train")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    plan_rows()
    flood_rows()
    if options.daemons:
        controller_rows(options.daemons)
    if options.train:
        node_rows(options.train, options.runs)


if __name__ == "__main__":
    main()
