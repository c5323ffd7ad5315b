"""Processor time and memory of a relay, for docs/two-homes.md.

python benchmarks/relay.py                    # 100 edges, 2.6 kB, 10 rounds a second, for 20 s
python benchmarks/relay.py --edges 10 --rate 50

`edgenode relay` relays, in a process of its own. This one is its controller, and has both ends of all edges: a sender
sends the bytes of a push, and its receiver answers with 100 bytes. The ends have no TLS with each other, which a relay
would not notice: it passes bytes on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from edgenode.addresses import split_address
from edgenode.net import relay_registry
from edgenode.net.relay_client import Inbound, Relay, wait_at, way_by
from edgenode.net.relay_registry import RelayRegistry
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.local import OWN
from edgenode.security.secret_files import write_credentials
from edgenode.security.subject import CONTROLLER, Subject

ANSWER = 100
CA = certificates.make_authority("home")


RELAY = Subject("relay", "relay")
READY = re.compile(rb"address=(\S+:\d+) nodes=")


def identity(name: str, subject: Subject | None = None) -> Identity:
    own = certificates.make_credentials(CA, subject or Subject("node", name))
    return Identity("home", name, "run", security=MutualTls(own, lambda subject, key_id: True))


def usage(pid: int) -> tuple[float, int]:
    """The processor seconds of a process so far, and its peak memory in bytes."""
    of_process = Path(f"/proc/{pid}")
    ticks = map(int, (of_process / "stat").read_text().rpartition(")")[2].split()[11:13])
    peak = re.search(r"VmHWM:\s+(\d+) kB", (of_process / "status").read_text())
    assert peak
    return sum(ticks) / os.sysconf("SC_CLK_TCK"), int(peak[1]) * 1024


@asynccontextmanager
async def relaying(edges: int) -> AsyncIterator[tuple[Process, Relay]]:
    """Run `edgenode relay`, and a controller that names the nodes to it."""
    nodes = frozenset(f"{end}{number}" for end in "sr" for number in range(edges))
    registry = RelayRegistry(lambda: nodes, frozenset, lambda: None)
    security = identity(CONTROLLER.name, CONTROLLER).security
    services = [(relay_registry.SERVICE, registry.add_to)]
    with tempfile.TemporaryDirectory() as folder:
        write_credentials(Path(folder) / OWN, certificates.make_credentials(CA, RELAY))
        async with serving("127.0.0.1:0", services, 0.0, security=security) as port:
            where = ("--listen", "127.0.0.1:0", "--controller", f"127.0.0.1:{port}", "--state-dir", folder)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgenode", "relay", *where, stderr=PIPE
            )
            assert process.stderr
            try:
                while not (ready := READY.search(line := await process.stderr.readline())):
                    assert line, "the relay has ended"
                yield process, Relay("relay", ready[1].decode(), RELAY.dns_name)
            finally:
                process.kill()
                await process.wait()


async def edge(number: int, at: Relay, size: int, every_s: float, rounds: list[int], begins: asyncio.Event) -> None:
    """One edge: a receiver that waits at the relay, and a sender that sends in each round, until cancelled."""
    sender, receiver, waits = identity(f"s{number}"), identity(f"r{number}"), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readexactly(size)
                writer.write(bytes(ANSWER))

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
        inbound = Inbound("{}:{}".format(*server.sockets[0].getsockname()))
        waiting = asyncio.create_task(wait_at(at, receiver, inbound, waits.set))
        stack.callback(waiting.cancel)
        await asyncio.wait_for(waits.wait(), 30.0)
        way = await stack.enter_async_context(way_by(at, sender.security, receiver.node))
        reader, writer = await asyncio.open_connection(*split_address(way.address))
        due = time.monotonic()
        while True:
            writer.write(bytes(size))
            await reader.readexactly(ANSWER)
            rounds[number] += 1
            begins.set()
            due += every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def measure(process: Process, at: Relay, options: argparse.Namespace) -> None:
    """Print what the relay uses while all edges are busy."""
    rounds = [0] * options.edges
    idle = usage(process.pid)
    edges, begins, every_s = list[asyncio.Task[None]](), asyncio.Event(), 1 / options.rate
    for number in range(options.edges):  # in turn: the relay keeps few places for processes that it does not know yet
        begins.clear()
        edges.append(asyncio.create_task(edge(number, at, options.size, every_s, rounds, begins)))
        await asyncio.wait_for(begins.wait(), 60.0)
    before, began, sent = usage(process.pid), time.monotonic(), sum(rounds)
    await asyncio.sleep(options.seconds)
    after, took, pushes = usage(process.pid), time.monotonic() - began, sum(rounds) - sent
    used = after[0] - before[0]
    print(f"{options.edges} edges, {pushes / took / options.edges:.1f} rounds/s of {options.size} bytes")
    print(f"processor: {used / took:.2f} cores, {1e3 * used / pushes:.3f} ms for a push and its answer")
    print(f"memory: {after[1] / 1e6:.0f} MB at most, {idle[1] / 1e6:.0f} MB before the first edge")
    for one in edges:
        one.cancel()
    await asyncio.gather(*edges, return_exceptions=True)


async def run(options: argparse.Namespace) -> None:
    async with relaying(options.edges) as (process, at):
        await measure(process, at, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--size", type=int, default=2600)
    parser.add_argument("--rate", type=float, default=10.0, help="rounds a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
