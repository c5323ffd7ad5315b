"""What a round costs a node beside its gradient, against a bare gRPC stream that carries the same payloads.

    python benchmarks/ring.py

Four nodes in a ring, each a process with TLS, train with a local step that costs nothing and send their whole model.
Beside them, four processes move payloads of the same size around a ring with grpc.aio alone: one stream for each edge,
with bytes as they are, and an answer of two bytes for each payload. Both sides run in turn in each of the runs. It
prints the CPU time of a process for a round, the time of a round, and their ratios: the median and the range.

A third side has no network: four nodes in one process hand their messages to each other. A node cannot take less than
this side and gRPC together, unless one of them changes. That is the least ratio.

`--profile` prints where the event loop of one node spends its time, instead.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from edgenode.addresses import free_ports
from edgenode.bench import CLUSTER, name_of
from edgenode.bench.ring import NODES, SIZES

WARM_UP = 20  # rounds
_MOST_S = 300.0


def milliseconds(first: tuple[float, float], last: tuple[float, float], rounds: int) -> list[float]:
    """CPU time and time of a round, between two moments in seconds."""
    return [1000 * (after - before) / rounds for before, after in zip(first, last, strict=True)]


# --- edgenode


def edgenode(
    index: int, ports: Sequence[int], folder: Path, parameters: int, rounds: int, profiler: cProfile.Profile | None
) -> list[float]:
    """Run one node of `edgenode bench`. Return the CPU time and the time of a round, in ms."""
    from edgenode.bench.ring_node import SEGMENTS, Order, Run, play
    from edgenode.observability.logs import set_up_logging

    set_up_logging(verbose=False)
    run = Run(parameters, rounds // SEGMENTS, tuple(ports))
    stamps = play(Order(index, str(folder), (run,)), run, lambda _: profiler.enable() if profiler else None)
    return milliseconds(stamps[0], stamps[-1], SEGMENTS * run.segment)


# --- grpc.aio alone


def bare(index: int, ports: Sequence[int], folder: Path, parameters: int, rounds: int, _: object) -> list[float]:
    """Be one process of a ring that moves bytes. Return the CPU time and the time of a round, in ms."""
    from edgenode.node.resources import keep_freed_memory

    keep_freed_memory()  # as a node does: fresh pages for each payload would take more than the rest
    return asyncio.run(_bare(index, ports, folder, 4 * parameters + 5, rounds))


async def _bare(index: int, ports: Sequence[int], folder: Path, size: int, rounds: int) -> list[float]:
    import grpc

    from edgenode.net.rpc import channel
    from edgenode.net.tls import MutualTls
    from edgenode.net.wire import CHUNK_BYTES
    from edgenode.security.secret_files import read_credentials
    from edgenode.security.subject import Subject

    own = read_credentials(folder / name_of(index) / "credentials.pem")
    assert own is not None
    security, arrived, answered = MutualTls(own, lambda *_: True), asyncio.Semaphore(0), asyncio.Semaphore(0)
    begun, done = asyncio.Event(), asyncio.Event()

    async def receive(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        await context.write(b"hello")
        received = 0
        async for part in requests:
            received += len(part)
            if received == size:
                received = 0
                arrived.release()
                await context.write(b"ok")
        done.set()

    async def read_answers(stream: Any) -> None:
        while await stream.read() is not grpc.aio.EOF:
            answered.release()
            begun.set()

    stamps, payload, successor = [], memoryview(bytes(size)), (index + 1) % NODES
    server = grpc.aio.server()  # no interceptor
    handlers = {"Push": grpc.stream_stream_rpc_method_handler(receive)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Ring", handlers),))
    security.bind(server, f"127.0.0.1:{ports[index]}")
    await server.start()
    async with (
        channel(f"127.0.0.1:{ports[successor]}", security, Subject("node", name_of(successor)).dns_name) as there,
        asyncio.TaskGroup() as group,
    ):
        await asyncio.wait_for(there.channel_ready(), 60)
        stream = there.stream_stream("/bare.Ring/Push")()
        group.create_task(read_answers(stream))
        await begun.wait()
        await answered.acquire()  # the greeting
        for t in range(rounds):
            if t in (WARM_UP, rounds - 1):
                stamps.append((time.process_time(), time.perf_counter()))
            for at in range(0, size, CHUNK_BYTES):
                await stream.write(bytes(payload[at : at + CHUNK_BYTES]))
            await arrived.acquire()
            await answered.acquire()
        await stream.done_writing()
        await done.wait()
    await server.stop(None)
    return milliseconds(*stamps, rounds - 1 - WARM_UP)


# --- edgenode without a network


def in_memory(parameters: int, rounds: int) -> float:
    """Run four nodes in this process. Return the CPU time of a node for a round, in ms."""
    from edgenode import factory
    from edgenode.bench.ring_node import SEGMENTS, FreeSteps, Run, config_of
    from edgenode.core.protocol.events import Answer, Answered, NodeEvent, Push, Received, Train
    from edgenode.core.topology.period import Epoch
    from edgenode.node.agreed_plan import agreed_plan
    from edgenode.node.first_state import StartPoint
    from edgenode.node.replica import Replica
    from edgenode.node.resources import keep_freed_memory

    keep_freed_memory()
    run = Run(parameters, rounds // SEGMENTS, tuple(range(NODES)))
    config, names = config_of(run), [name_of(index) for index in range(NODES)]
    nothing: tuple[frozenset[int], None] = frozenset(), None
    plan, first = agreed_plan(config, dict.fromkeys(names, nothing), Epoch(1, run.rounds))
    spec, start, window = factory.algorithm_spec(config), StartPoint(plan, first), config.run.window
    steps = {name: FreeSteps(run) for name in names}
    nodes = {name: Replica(config, spec, name, steps[name], start, None, window, None) for name in names}
    waiting: deque[tuple[str, NodeEvent]] = deque()

    def perform(name: str, actions: Sequence[object]) -> None:
        for action in actions:
            match action:
                case Train():
                    waiting.append((name, nodes[name].train(action)))
                case Push(to, message):
                    waiting.append((to, Received(message)))
                case Answer(to, ack):
                    waiting.append((to, Answered(name, ack)))

    for name, node in nodes.items():
        perform(name, node.node.start())
    while waiting:
        name, event = waiting.popleft()
        perform(name, nodes[name].handle(event))
    cpu_s = statistics.mean(step.stamps[-1][0] - step.stamps[0][0] for step in steps.values())
    return 1000 * cpu_s / (SEGMENTS * run.segment * NODES)


# --- the measurement


def ring(side: str, parameters: int, rounds: int, profile: bool = False) -> list[float]:
    """Run a ring of one side. Return the CPU time and the time of a round, in ms: the mean of its processes."""
    from edgenode.security import local

    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    with tempfile.TemporaryDirectory() as folder:
        local.prepare(Path(folder), CLUSTER, map(name_of, range(NODES)))
        ports = ",".join(map(str, free_ports(NODES)))
        logs = [Path(folder) / f"{index}.log" for index in range(NODES)]
        running = [
            subprocess.Popen(
                [sys.executable, __file__, side, str(index), ports, folder, str(parameters), str(rounds)]
                + (["profile"] if profile and index == 0 else []),
                stdout=subprocess.PIPE, stderr=log.open("w"), env=environ,
            )
            for index, log in enumerate(logs)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=_MOST_S)[0] for process in running]
        failed = [log for log, process in zip(logs, running, strict=True) if process.returncode]
        for log in failed or logs[:profile]:
            print(log.read_text()[-8000:])
        if failed:
            sys.exit(1)
    return [statistics.mean(column) for column in zip(*map(json.loads, outputs), strict=True)]


def one_process(side: str, index: str, ports: str, folder: str, parameters: str, rounds: str, *profile: str) -> None:
    """What a process of a ring does. It prints what it measured."""
    work = {"edgenode": edgenode, "bare": bare}[side]
    arguments = int(index), [int(port) for port in ports.split(",")], Path(folder), int(parameters), int(rounds)
    profiler = cProfile.Profile(time.thread_time) if profile else None
    print(json.dumps(work(*arguments, profiler)))
    if profiler is None:
        return
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def show(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--payload", choices=list(SIZES), action="append", help="default: all")
    parser.add_argument("--profile", action="store_true", help="one node, with cProfile")
    parser.add_argument("process", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        one_process(*options.process)
        return
    chosen = options.payload or list(SIZES)
    if options.profile:
        ring("edgenode", SIZES[chosen[0]], options.rounds, profile=True)
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.runs} runs of {options.rounds} rounds\n")
    print("| payload | ms of a round, per node | edgenode | grpc.aio | ratio | in memory | least ratio |")
    print("|---|---|---|---|---|---|---|")
    for payload in chosen:
        runs = [
            [ring(side, SIZES[payload], options.rounds) for side in ("edgenode", "bare")] for _ in range(options.runs)
        ]
        alone = [in_memory(SIZES[payload], options.rounds) for _ in range(options.runs)]
        for place, what in enumerate(("CPU", "wall")):
            ours, theirs = ([run[side][place] for run in runs] for side in (0, 1))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            least = [(a + b) / b for a, b in zip(alone, theirs, strict=True)]
            floor = f"{show(alone)} | {show(least)}" if what == "CPU" else " | "
            print(f"| {payload} | {what} | {show(ours)} | {show(theirs)} | {show(ratios)} | {floor} |", flush=True)


if __name__ == "__main__":
    main()
