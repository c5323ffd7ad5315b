"""Processor time and memory of a relay, for docs/two-homes.md.

python benchmarks/relay.py                    # 100 edges, 2.6 kB, 10 rounds a second, for 20 s
python benchmarks/relay.py --edges 10 --rate 50

A process relays, with certificates, as `edgenode controller --relay` does. Another one has both ends of all edges: a
sender sends the bytes of a push, and its receiver answers with 100 bytes. The ends have no TLS with each other, which a
relay would not notice: it passes bytes on.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import time
from contextlib import AsyncExitStack, suppress
from multiprocessing.connection import Connection

from edgenode.addresses import split_address
from edgenode.net import relay_server
from edgenode.net.relay_client import Inbound, Relay, wait_at, way_by
from edgenode.net.relay_limits import HOSTED_CALLS, HOSTED_OF_A_MEMBER, RelayLimits
from edgenode.net.relay_server import RelayServer
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.security import certificates
from edgenode.security.subject import Subject

ANSWER = 100
CA = certificates.make_authority("home")


def identity(name: str) -> Identity:
    own = certificates.make_credentials(CA, Subject("node", name))
    return Identity("home", name, "run", security=MutualTls(own, lambda subject, key_id: True))


def usage() -> tuple[float, int]:
    """The processor seconds of this process so far, and its peak memory in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


async def relay(pipe: Connection) -> None:
    """Relay until told to end. Sends the port, and the usage whenever it is asked."""
    limits = RelayLimits(HOSTED_CALLS, HOSTED_OF_A_MEMBER)
    own = identity("relay")
    server = RelayServer(own, lambda node: "somewhere:1", limits=limits)
    services = [(relay_server.SERVICE, server.add_to)]
    async with serving("127.0.0.1:0", services, 0.0, security=own.security) as port:
        pipe.send(port)
        while await asyncio.to_thread(pipe.recv):
            pipe.send(usage())


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


async def measure(pipe: Connection, options: argparse.Namespace) -> None:
    """Print what the relay uses while all edges are busy."""
    at = Relay("relay", f"127.0.0.1:{pipe.recv()}", Subject("node", "relay").dns_name)
    rounds = [0] * options.edges

    def asked() -> tuple[float, int]:
        pipe.send(True)
        found: tuple[float, int] = pipe.recv()
        return found

    idle = asked()
    edges, begins, every_s = list[asyncio.Task[None]](), asyncio.Event(), 1 / options.rate
    for number in range(options.edges):  # in turn: the relay keeps few places for processes that it does not know yet
        begins.clear()
        edges.append(asyncio.create_task(edge(number, at, options.size, every_s, rounds, begins)))
        await asyncio.wait_for(begins.wait(), 60.0)
    before, began, sent = asked(), time.monotonic(), sum(rounds)
    await asyncio.sleep(options.seconds)
    after, took, pushes = asked(), time.monotonic() - began, sum(rounds) - sent
    used = after[0] - before[0]
    print(f"{options.edges} edges, {pushes / took / options.edges:.1f} rounds/s of {options.size} bytes")
    print(f"processor: {used / took:.2f} cores, {1e3 * used / pushes:.3f} ms for a push and its answer")
    print(f"memory: {after[1] / 1e6:.0f} MB at most, {idle[1] / 1e6:.0f} MB before the first edge")
    for one in edges:
        one.cancel()
    await asyncio.gather(*edges, return_exceptions=True)
    pipe.send(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=100)
    parser.add_argument("--size", type=int, default=2600)
    parser.add_argument("--rate", type=float, default=10.0, help="rounds a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=lambda: asyncio.run(relay(theirs)))
    process.start()
    asyncio.run(measure(ours, options))
    process.join()


if __name__ == "__main__":
    main()
