"""What certificates and TLS cost, against `--insecure`, in one run of about three minutes.

    python benchmarks/security_cost.py

1. A round of a ResNet-20 on images of 32 x 32: its local step, a push of the size of its messages over loopback, and a
   connection. Both ends are in one process, with TLS and without in turn. In processor time, which other work on the
   machine disturbs least.
2. The start of a demo: its authority, its certificates and its handshakes.
3. A new board that joins a running cluster: from `edgenode invite` to the end of its first round, and torch's import.

Each figure is the median of the repetitions, with the range.
"""

from __future__ import annotations

import argparse
import asyncio
import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would log every connection that only looks at a certificate

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import NamedTuple, Self

import grpc.aio

from edgenode.addresses import free_ports
from edgenode.config.load import load
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.net.peer_client import PUSH
from edgenode.net.peer_server import SERVICE
from edgenode.net.proto import peer_pb2
from edgenode.net.push_wire import PushReader, PushWriter
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.net.wire import ACK, Identity
from edgenode.security import certificates, local
from edgenode.security.subject import Subject
from edgenode.storage.model_file import MODEL_FILE
from edgenode.tasks import models

_ENVIRON = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1", "EDGENODE_HTTP": "none"}
_SUBJECT = Subject("node", "n0")
_IDENTITY = Identity("home", "n0", "run")
_DIGEST = "0" * 64
_DEMO_NODES = 4
_MOST_S = 120.0


class Found(NamedTuple):
    """What repetitions gave, in seconds."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def show(self, unit: str = "ms") -> str:
        """The median and the range."""
        factor, digits = {"ms": (1000, 2), "s": (1, 1)}[unit]
        numbers = (self.median, min(self.values), max(self.values))
        return "{:.{d}f} {u} ({:.{d}f} to {:.{d}f})".format(*(factor * n for n in numbers), d=digits, u=unit)


def row(what: str, *cells: str) -> None:
    print(f"{what:44}" + "".join(f"{cell:28}" for cell in cells), flush=True)


def edgenode(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start a command."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "edgenode", *map(str, arguments)], env=_ENVIRON, stdout=output, stderr=output
        )


async def _receive(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
    """Take pushes and answer each."""
    reader = PushReader(_IDENTITY, 1 << 30)
    async for frame in requests:
        if message := reader.feed(frame):
            await context.write(ACK.to_wire(Ack(message.round, Verdict.OK, 0)))


def add_receiver(server: grpc.aio.Server) -> None:
    push = grpc.stream_stream_rpc_method_handler(_receive, None, peer_pb2.PushResponse.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Push": push}),))


async def push_s(security: Security, payload: bytes, count: int) -> float:
    """Processor time of a push and its answer, of both ends."""
    services = [(SERVICE, add_receiver)]
    async with (
        serving("127.0.0.1:0", services, grace_s=0, security=security) as port,
        channel(f"127.0.0.1:{port}", security, _SUBJECT.dns_name) as there,
    ):
        stream, writer = there.stream_stream(PUSH, None, peer_pb2.PushResponse.FromString)(), PushWriter()
        for t in range(count + 1):
            if t == 1:  # the first one connects
                began = time.process_time()
            for frame in writer.frames(Message("n0", 0, t, 0, _DIGEST, 0.5, (1.0,), payload)):
                await stream.write(frame)
            await stream.read()
        took_s = time.process_time() - began
        stream.cancel()
    return took_s / count


async def connect_s(security: Security, keys: frozenset[str], count: int) -> float:
    """Processor time of a connection to a neighbour with one short push, of both ends."""
    services = [(SERVICE, add_receiver)]
    async with serving("127.0.0.1:0", services, grace_s=0, security=security) as port:
        target, name = f"127.0.0.1:{port}", _SUBJECT.dns_name
        began = time.process_time()
        for _ in range(count):
            async with channel(target, await security.knowing(target, name, keys, target, 2.0), name) as there:
                stream = there.stream_stream(PUSH, None, peer_pb2.PushResponse.FromString)()
                for frame in PushWriter().frames(Message("n0", 0, 0, 0, _DIGEST, 0.5, (1.0,), b"")):
                    await stream.write(frame)
                await stream.read()
                stream.cancel()
        return (time.process_time() - began) / count


def local_step_s(count: int) -> tuple[float, int]:
    """Processor time of a step of SGD on a batch of CIFAR-10's size, and the number of parameters."""
    import torch

    torch.set_num_threads(1)
    network = models.build("resnet20", num_classes=10, in_channels=3, image_size=32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = torch.rand(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)
    for step in range(count + 1):
        if step == 1:  # the first one prepares
            began = time.process_time()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    took_s = time.process_time() - began
    return took_s / count, sum(p.numel() for p in network.parameters())


def measure_rounds(repetitions: int) -> float:
    """Part 1. Returns what TLS adds to a connection, in seconds."""
    authority = certificates.make_authority("home")
    own = certificates.make_credentials(authority, _SUBJECT)
    tls, keys = MutualTls(own, lambda subject, key_id: True), frozenset({own.key_id})
    step_s, size = local_step_s(20)
    print(f"A round of ResNet-20, {size:,} parameters: {1000 * step_s:.0f} ms for its local step\n", flush=True)
    row("processor time, both ends", "without TLS", "with TLS", "of a round")
    works: dict[str, Callable[[Security], Coroutine[None, None, float]]] = {
        "a push of top-1 % and its answer": lambda security: push_s(security, bytes(size // 50), 100),
        "a push of the whole model and its answer": lambda security: push_s(security, bytes(4 * size), 50),
        "a connection, were there one a round": lambda security: connect_s(security, keys, 50),
    }
    added_s = 0.0
    for what, work in works.items():
        plain, secure = [], []
        for _ in range(repetitions):  # in turn, so both see the same machine
            plain.append(asyncio.run(work(INSECURE)))
            secure.append(asyncio.run(work(tls)))
        shares = [100 * (b - a) / (step_s + b) for a, b in zip(plain, secure, strict=True)]
        share = f"{statistics.median(shares):.2f} % ({min(shares):.2f} to {max(shares):.2f})"
        row(what, Found(plain).show(), Found(secure).show(), share)
        added_s = Found(secure).median - Found(plain).median
    return added_s


def measure_demo(repetitions: int, connection_s: float) -> None:
    """Part 2."""
    found = []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            local.prepare(Path(folder), "demo", [f"n{i}" for i in range(_DEMO_NODES)])
            found.append(time.monotonic() - began)
    handshakes = _DEMO_NODES * _DEMO_NODES + 1  # a controller and the others for each node, and the table
    print(f"\nStart of a demo with {_DEMO_NODES} nodes, added by certificates and TLS", flush=True)
    row("authority and certificates, elapsed", Found(found).show())
    row(f"{handshakes} connections, processor time", f"{1000 * handshakes * connection_s:.0f} ms")
    row("together", f"{Found(found).median + handshakes * connection_s:.2f} s, of 2 s allowed")


class Cluster:
    """A controller and one member that train without end, until the block is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, self._enrol = free_ports(2)
        config = load(
            None,
            {"run.rounds": 10_000_000, "run.nodes": 1, "run.cluster": f"board-{self._port}", "run.publish_every": 1,
             "run.evaluate_every": 0, "run.checkpoint_every": 1000},
            environ={},
        )  # fmt: skip
        (folder / "run.toml").write_text(config.to_toml())
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        state, log = self._folder / "controller", self._folder / "controller.log"
        self._running.append(
            edgenode("controller", "--config", self._folder / "run.toml", "--listen", f"127.0.0.1:{self._port}",
                     "--enrol", f"127.0.0.1:{self._enrol}", "--state-dir", state, log=log)
        )  # fmt: skip
        self._await(lambda: "controller ready" in log.read_text())
        self.join("pi-0")
        return self

    def join(self, name: str) -> float:
        """Invite a board and start it. Returns the seconds from the first command to the end of its first round."""
        began = time.monotonic()
        command = (sys.executable, "-m", "edgenode", "invite", "--controller", f"127.0.0.1:{self._port}",
                   "--credentials", str(self._folder / "controller" / local.OPERATOR))  # fmt: skip
        (line,) = re.findall(r"inv-\S+", subprocess.check_output(command, env=_ENVIRON, text=True))
        state = self._folder / name
        self._running.append(
            edgenode("run", "--config", self._folder / "run.toml", "--name", name, "--listen", "127.0.0.1:0",
                     "--controller", f"127.0.0.1:{self._port}", "--state-dir", state, "--join", line,
                     log=self._folder / f"{name}.log")
        )  # fmt: skip
        self._await((state / MODEL_FILE).exists)  # it is published after every round
        return time.monotonic() - began

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _MOST_S
        while not condition():
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._running):
                sys.exit("\n".join(log.read_text()[-1000:] for log in sorted(self._folder.glob("*.log"))))
            time.sleep(0.02)

    def __exit__(self, *error: object) -> None:
        for process in self._running:
            process.kill()
            process.wait()


def measure_board(repetitions: int) -> None:
    """Part 3."""
    boards, imports = [], []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
            boards.append(cluster.join("pi-1"))
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import torch, torchvision"], env=_ENVIRON, check=True)
        imports.append(time.monotonic() - began)
    print(
        "\nA new board, from `edgenode invite` to the end of its first round in a running cluster, elapsed", flush=True
    )
    row("two commands", Found(boards).show("s"))
    row("torch's import, on its own", Found(imports).show("s"))
    row("beside it", Found([a - b for a, b in zip(boards, imports, strict=True)]).show("s") + ", of 10 s allowed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    measure_demo(options.repetitions, measure_rounds(options.repetitions))
    measure_board(options.repetitions)


if __name__ == "__main__":
    main()
