"""What `mesh.step()` costs over the path of a daemon, which trains in a worker thread.

    python benchmarks/mesh_overhead.py
    python benchmarks/mesh_overhead.py --repetitions 1   # a look, without confidence

The first two rows leave out training and network: a model of 26,762 parameters goes to the thread that trains, and its
update comes back. Then both sides run the same GRU, the same Adam and the same node, each in processes of their own:
alone, and as a pair over loopback. It prints the median time of a round, its fastest tenth, and the CPU time of a round
for the process and for the thread that trains. Other work on the machine disturbs each of these less than the one
before it.

CPU times are medians over blocks of 20 rounds, so that a disturbance counts in few of them. The sides run in turn, and
take turns in running first, so that a machine that becomes slower favours neither. The difference is the median over
the repetitions, with its confidence interval, which holds for errors of any distribution. The last column says whether
the whole interval is below the limit, or above it. It stays open with a confidence of less than 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgenode.observability.logs import set_up_logging

ROUNDS = 600
WARM_UP = 100
BLOCK = 20  # rounds whose CPU time is one sample
BATCHES = 56  # of a pass
LIMIT = 0.3  # ms
SETTINGS: Mapping[str, object] = {
    "run.rounds": ROUNDS, "run.evaluate_every": 0, "run.checkpoint_every": 10 * ROUNDS, "algorithm.name": "sp",
    "topology.every": "100r",
}  # fmt: skip


def loop_body() -> tuple[Any, Any, Callable[[], float], list[tuple[float, ...]]]:
    """A model, its optimiser, a step that returns its loss, and when the steps began: time, CPU time of the process,
    and of the thread that trains."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.ModuleDict({"gru": nn.GRU(8, 88, batch_first=True), "out": nn.Linear(88, 10)})
    optimizer = torch.optim.Adam(model.parameters())
    rows, digits = torch.rand(1, 8, 8), torch.zeros(1, dtype=torch.long)
    began: list[tuple[float, ...]] = []

    def step() -> float:
        began.append((time.perf_counter(), time.process_time(), time.thread_time()))
        loss = nn.functional.cross_entropy(model["out"](model["gru"](rows)[1][0]), digits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return model, optimizer, step, began


def measure(kind: str, index: int, ports: Sequence[int], folder: Path) -> list[float]:
    """Run one node of one kind. Return the median and the first decile of a round's time, in ms, and its CPU times."""
    where = {
        "name": f"n{index}", "listen": f"127.0.0.1:{ports[index]}", "state_dir": folder / f"n{index}",
        "peers": ",".join(f"127.0.0.1:{port}" for port in ports),
    }  # fmt: skip
    settings = {**SETTINGS, "run.nodes": len(ports)}
    model, optimizer, step, began = loop_body()
    set_up_logging(verbose=False)
    if kind == "mesh":
        from edgenode import Mesh

        mesh = Mesh(model, None, optimizer, settings=settings, **where)
        for _ in mesh.loop([None] * BATCHES):
            mesh.step(loss=step())
    else:
        as_daemon(model, optimizer, step, settings, where)
    warm = began[WARM_UP:]
    times = [1000 * (after[0] - before[0]) for before, after in pairwise(warm)]
    process, thread = ([1000 * stamp[place] for stamp in warm[::BLOCK]] for place in (1, 2))
    return [statistics.median(times), statistics.quantiles(times, n=10)[0], of_a_round(process), of_a_round(thread)]


def of_a_round(stamps: Sequence[float]) -> float:
    """The increase of a counter in a round: the median over the blocks that begin and end at its stamps."""
    return statistics.median(after - before for before, after in pairwise(stamps)) / BLOCK


class Given:
    """A z that is already there, in the form in which a node gives it."""

    def __init__(self, z: Any) -> None:
        self._z = z

    def read(self, out: Any = None) -> Any:
        if out is None:
            return self._z
        out[:] = self._z
        return out


def as_daemon(model: Any, optimizer: Any, step: Callable[[], float], settings: Any, where: Any) -> None:
    """The same training, driven by the node: no Mesh, and the worker thread of `edgenode run`."""
    from edgenode.config.load import load
    from edgenode.mesh.mesh_trainer import MeshTrainer
    from edgenode.mesh.node_thread import MeshWorkload
    from edgenode.mesh.passes import Passes
    from edgenode.mesh.worker import UserThread
    from edgenode.node.background import WorkerThread
    from edgenode.node.node_options import node_options
    from edgenode.node.node_process import run_node

    class Trainer(MeshTrainer):
        def train(self, t: int, z: Any) -> Any:
            self.hand_over(t, Given(z))
            self.count(step())
            return super().train(t, z)

    class Workload(MeshWorkload):
        def worker(self) -> Any:
            return WorkerThread()

    trainer = Trainer(model, [optimizer], Passes([None]), 1, {}, lambda: None)
    options = node_options(load(None, settings, environ={}), **where)
    run_node(options, Workload(trainer, UserThread(trainer.hand_over)))


def hand_over(kind: str) -> list[float]:
    """Give z to the thread that trains and take the update back. Return the CPU time, in ms, and the switches of
    threads, for a round."""
    from edgenode.core.protocol.events import Train
    from edgenode.mesh.mesh_trainer import MeshTrainer
    from edgenode.mesh.passes import Passes
    from edgenode.mesh.worker import UserThread
    from edgenode.node.background import WorkerThread

    model, optimizer, _, _ = loop_body()
    passes = Passes([None] * BATCHES)
    trainer = MeshTrainer(model, [optimizer], passes, 1, {}, lambda: None)
    z, spent = Given(trainer.initial()), list[float]()

    async def node(worker: Any, train: Callable[[Any], Any]) -> None:
        stamps = []
        for t in range(ROUNDS):
            if t % BLOCK == 0:
                stamps.append(used())
            await worker.train(train, Train(t, z))
        spent.extend(map(of_a_round, zip(*stamps, strict=True)))

    def in_a_worker(action: Train) -> Any:
        trainer.hand_over(action.round, action.z)
        trainer.count(0.0)
        return trainer.train(action.round, action.z)

    if kind == "daemon":
        worker = WorkerThread()
        asyncio.run(node(worker, in_a_worker))
        worker.close()
        return spent
    user = UserThread(trainer.hand_over)

    def run_node() -> None:
        asyncio.run(node(user, lambda action: trainer.train(action.round, action.z)))
        user.end()

    thread = threading.Thread(target=run_node)
    thread.start()
    user.serve()
    for _ in passes.batches():
        if trainer.count(0.0) and not user.serve():
            break
    thread.join()
    return spent


def used() -> tuple[float, int]:
    """CPU time of this process, in ms, and how often its threads have waited."""
    return 1000 * time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def round_ms(kind: str, nodes: int) -> list[float]:
    """What `measure` returns, as the mean over the nodes, each in a process of its own."""
    ports = ",".join(map(str, free_ports(nodes)))
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GRPC_VERBOSITY": "NONE", "EDGENODE_INSECURE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        running = [
            subprocess.Popen([sys.executable, __file__, kind, str(index), ports, folder], stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL, env=environ)
            for index in range(nodes)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
    return [statistics.mean(column) for column in zip(*map(json.loads, outputs), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--repetitions", type=int, default=8, help="of each row; more on a noisy machine")
    options = parser.parse_args()
    if options.measure:
        kind, index, ports, folder = options.measure
        print(json.dumps(measure(kind, int(index), [int(p) for p in ports.split(",")], Path(folder))))
        return
    times = options.repetitions
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {times} repetitions of {ROUNDS} rounds\n")
    print(f"| nodes | time of a round | daemon, ms | mesh, ms | difference, ms | confidence | below {LIMIT} |")
    print("|---|---|---|---|---|---|---|")
    show("hand-over alone", ("CPU time", "switches (not ms)"), hand_over, 3 * times)
    for nodes in (1, 2):
        columns = ("median", "fastest tenth", "CPU time", "CPU time of the training thread")
        show(str(nodes), columns, lambda kind, n=nodes: round_ms(kind, n), times)


def show(nodes: str, values: Sequence[str], measured: Callable[[str], list[float]], repetitions: int) -> None:
    """Measure both kinds in turn, and print a row for each value."""
    runs: dict[str, list[list[float]]] = {"daemon": [], "mesh": []}
    for repetition in range(repetitions):
        for kind in sorted(runs, reverse=repetition % 2 == 1):
            runs[kind].append(measured(kind))
    for place, what in enumerate(values):
        daemon, mesh = ([run[place] for run in of_kind] for of_kind in runs.values())
        extra = [m - d for d, m in zip(daemon, mesh, strict=True)]
        low, high, confidence = interval(extra)
        row = f"{statistics.median(daemon):.3f} | {statistics.median(mesh):.3f} | {statistics.median(extra):+.3f}"
        row += f" ({low:+.3f} to {high:+.3f}) | {100 * confidence:.0f} %"
        sure = confidence >= 0.95 and (high < LIMIT or low >= LIMIT)
        verdict = "" if "not ms" in what else "open" if not sure else "yes" if high < LIMIT else "no"
        print(f"| {nodes} | {what} | {row} | {verdict} |", flush=True)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Bounds of the median that are right with a probability of 95 % or more, and that probability.

    The k-th smallest and the k-th largest value enclose it, unless fewer than k of n lie on one side of it, which is
    the chance of so few heads in n throws. Below six values, all of them reach less than 95 %.
    """
    n, ordered = len(values), sorted(values)
    missed = [2 * sum(math.comb(n, heads) for heads in range(k)) / 2**n for k in range(1, n // 2 + 1)] or [1.0]
    k = max(1, sum(chance <= 0.05 for chance in missed))
    return ordered[k - 1], ordered[-k], 1 - missed[k - 1]


if __name__ == "__main__":
    main()
