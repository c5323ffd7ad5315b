"""How much sooner four daemons reach an accuracy with an overlap: a slow node, and links that delay what they carry.

    python benchmarks/overlap.py

Four nodes on rings a, b and c in turn train the digits with label skew 0.8 (SP, top-10 %). A local step takes 25 ms,
and four times as long on one node. Every connection between two nodes passes a proxy that holds back each byte for
200 ms, in both directions. It prints the seconds from the begin of the run until the mean test accuracy of the nodes is
85 %, the round, and the ratio to lock-step: the median and the range of the runs. Both kinds of run alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

from torch import Tensor, nn

from edgenode.addresses import free_ports
from edgenode.config.load import load
from edgenode.tasks.image_task import ImageTask

NODES, SLOW = 4, 4.0
_STEP_S = "OVERLAP_STEP_S"  # of a node's environment
_READ = 1 << 16
_MOST_S = 600.0


class Digits(ImageTask):
    """The digits, with a local step that takes as long as the environment says."""

    def __init__(self) -> None:
        super().__init__("digits")
        self._step_s = float(os.environ.get(_STEP_S, "0"))

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        until = time.monotonic() + self._step_s
        loss = super().loss(model, batch)
        time.sleep(max(0.0, until - time.monotonic()))
        return loss


# --- the links


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass on what comes, each part after the delay, so that the delay does not limit the rate."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def send() -> None:
        while True:
            when, data = await arrived.get()
            await asyncio.sleep(when - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        while True:
            data = await reader.read(_READ)
            arrived.put_nowait((loop.time() + delay_s, data))
            if not data:
                break


async def _delaying_proxy(port: int, to: int, delay_s: float) -> asyncio.Server:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", to)
            ways = (reader, there[1]), (there[0], writer)
            await asyncio.gather(*(_carry(*way, delay_s) for way in ways), return_exceptions=True)
        except OSError:  # the node does not listen yet: its peer dials again
            writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", port)


# --- the nodes


def seconds(event: dict[str, Any]) -> float:
    """The time of an event, in seconds."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


async def _play(settings: dict[str, object], step_s: float, delay_s: float) -> list[list[dict[str, Any]]]:
    """Run the four nodes to their end: what each of them has logged."""
    ports = free_ports(2 * NODES)
    listen, doors = ports[:NODES], ports[NODES:]
    with tempfile.TemporaryDirectory() as folder:
        run_toml = Path(folder) / "run.toml"
        run_toml.write_text(load(None, settings, {}).to_toml())
        async with AsyncExitStack() as stack:
            for door, port in zip(doors, listen, strict=True):
                await stack.enter_async_context(await _delaying_proxy(door, port, delay_s))
            nodes = [await _node(i, listen, doors, run_toml, step_s * (SLOW if i == 0 else 1)) for i in range(NODES)]
            async with asyncio.timeout(_MOST_S):
                logs = [log for _, log in await asyncio.gather(*(node.communicate() for node in nodes))]
    if any(node.returncode for node in nodes):
        sys.exit(b"\n".join(logs).decode())
    return [[json.loads(line) for line in log.splitlines() if line.startswith(b"{")] for log in logs]


async def _node(
    i: int, listen: Sequence[int], doors: Sequence[int], run_toml: Path, step_s: float
) -> asyncio.subprocess.Process:
    peers = ",".join(f"127.0.0.1:{door}" for j, door in enumerate(doors) if j != i)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgenode", "run", "--config", str(run_toml), "--insecure", "--log-format", "json",
        "--name", f"node-{i}", "--listen", f"127.0.0.1:{listen[i]}", "--peers", peers,
        "--state-dir", str(run_toml.parent / f"node-{i}"),
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", _STEP_S: str(step_s)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


def reached(logs: list[list[dict[str, Any]]], accuracy: float) -> tuple[float, int]:
    """Seconds from the begin of the run until the mean accuracy was reached, and in which round."""
    begun = min(seconds(event) for log in logs for event in log if event["event"] == "run begins")
    tests = [{e["round"]: e for e in log if e["event"] == "test accuracy"} for log in logs]
    for t in sorted(tests[0]):
        if mean(test[t]["accuracy"] for test in tests) >= accuracy:
            return max(seconds(test[t]) for test in tests) - begun, t
    sys.exit(f"the nodes have not reached {accuracy:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--overlap", type=int, default=4, help="of the runs that are compared with lock-step")
    parser.add_argument("--accuracy", type=float, default=0.85)
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--step-ms", type=float, default=25)
    parser.add_argument("--delay-ms", type=float, default=200)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    shared: dict[str, object] = {
        "run.nodes": NODES, "run.rounds": options.rounds, "run.evaluate_every": 10, "run.checkpoint_every": 1000,
        "run.window": 16, "run.threads": 1, "run.device": "cpu", "task.entry": "overlap:Digits", "task.data": "cut",
        "task.skew": 0.8, "task.learning_rate": 0.02, "algorithm.name": "sp", "algorithm.share": 0.1,
        "topology.graphs": ["a", "b", "c"],
    }  # fmt: skip
    times: dict[int, list[float]] = {0: [], options.overlap: []}
    for seed in range(options.runs):
        for overlap, found in times.items():
            settings = {**shared, "run.seed": seed, "run.overlap": overlap}
            logs = asyncio.run(_play(settings, options.step_ms / 1000, options.delay_ms / 1000))
            took_s, t = reached(logs, options.accuracy)
            found.append(took_s)
            print(f"seed {seed}, overlap {overlap}: {options.accuracy:.0%} after {took_s:.1f} s, round {t}", flush=True)
    ratios = [late / early for early, late in zip(*times.values(), strict=True)]
    print(f"ratio to lock-step: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
