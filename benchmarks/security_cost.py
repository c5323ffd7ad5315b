"""What certificates and TLS cost, against `--insecure`, in one run.

    python benchmarks/security_cost.py

1. The local step of a round of a ResNet-20 on images of 32 x 32, a push of the size of its messages over loopback, and
   a connection. Both ends are in one process, with TLS and without in turn. All in processor time, which other work on
   the machine disturbs least.
2. The authority and the certificates that a demo makes first.
3. A new board, from `edgenode invite` to the end of its first round, and what of that is torch's import.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc.aio

from edgenode.config.load import load
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.net.proto import peer_pb2, peer_pb2_grpc
from edgenode.net.proto.peer_pb2_grpc import add_PeerServiceServicer_to_server as add_receiver
from edgenode.net.rpc import channel, serving
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.net.wire import Assembler, Identity, ack_to_wire, push_frames
from edgenode.security import certificates, local
from edgenode.security.subject import Subject
from edgenode.tasks import models

_ENVIRON = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1", "EDGENODE_HTTP": "none"}
_SUBJECT = Subject("node", "n0")
_IDENTITY = Identity("home", "n0", "run")


class Spent(NamedTuple):
    """Elapsed time, and the processor time of all processes, in seconds."""

    wall_s: float
    processor_s: float


def edgenode(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start a command."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "edgenode", *map(str, arguments)], env=_ENVIRON, stdout=output, stderr=output
        )


def spend(commands: list[tuple[object, ...]], folder: Path) -> Spent:
    """Run commands at the same time, to their ends."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [edgenode(*command, log=folder / f"{i}.log") for i, command in enumerate(commands)]
    for i, process in enumerate(running):
        if process.wait():
            sys.exit((folder / f"{i}.log").read_text()[-2000:])
    return Spent(time.monotonic() - began, _since(before))


def _since(before: resource.struct_rusage) -> float:
    """The processor time of children since then."""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class _Receiver(peer_pb2_grpc.PeerServiceServicer):
    """Takes pushes and answers each."""

    async def Push(self, requests: AsyncIterator[peer_pb2.PushRequest], context: grpc.aio.ServicerContext) -> None:
        assembler = Assembler(_IDENTITY, 1 << 30)
        async for frame in requests:
            if message := assembler.feed(frame):
                await context.write(ack_to_wire(Ack(message.round, Verdict.OK, 0)))


async def push_s(security: Security, payload: bytes, count: int) -> float:
    """Processor time of a push and its answer, of both ends."""
    services = [("edgenode.v1.PeerService", lambda server: add_receiver(_Receiver(), server))]
    async with (
        serving("127.0.0.1:0", services, grace_s=0, security=security) as port,
        channel(f"127.0.0.1:{port}", security, _SUBJECT.dns_name) as there,
    ):
        stream = peer_pb2_grpc.PeerServiceStub(there).Push()
        for t in range(count + 1):
            if t == 1:  # the first one connects
                began = time.process_time()
            for frame in push_frames(Message("n0", 0, t, 0, "d", 0.5, (1.0,), payload)):
                await stream.write(frame)
            await stream.read()
        took_s = time.process_time() - began
        stream.cancel()
    return took_s / count


async def connect_s(security: Security, count: int) -> float:
    """Processor time of a connection with one short push, of both ends."""
    services = [("edgenode.v1.PeerService", lambda server: add_receiver(_Receiver(), server))]
    async with serving("127.0.0.1:0", services, grace_s=0, security=security) as port:
        began = time.process_time()
        for _ in range(count):
            async with channel(f"127.0.0.1:{port}", security, _SUBJECT.dns_name) as there:
                stream = peer_pb2_grpc.PeerServiceStub(there).Push()
                for frame in push_frames(Message("n0", 0, 0, 0, "d", 0.5, (1.0,), b"")):
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


def measure_rounds(repetitions: int) -> None:
    """Part 1."""
    authority = certificates.make_authority("home")
    tls = MutualTls(certificates.make_credentials(authority, _SUBJECT), lambda subject, key_id: True)
    step_s, size = local_step_s(20)
    print(f"ResNet-20, {size:,} parameters: {1000 * step_s:.0f} ms for the local step of a round", flush=True)
    for what, payload_bytes in (("top-1 %", size // 50), ("a whole model", 4 * size)):
        found: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(repetitions):
            for encrypted in (True, False):
                security = tls if encrypted else INSECURE
                found[encrypted].append(asyncio.run(push_s(security, bytes(payload_bytes), 100)))
        plain_s, tls_s = statistics.median(found[False]), statistics.median(found[True])
        share = 100 * (tls_s - plain_s) / (step_s + tls_s)
        print(f"a push of {what}: {1000 * plain_s:.2f} ms without TLS, {1000 * tls_s:.2f} ms with it. "
              f"The difference is {share:.2f} % of a round", flush=True)  # fmt: skip
    plain_s, tls_s = (asyncio.run(connect_s(security, 100)) for security in (INSECURE, tls))
    print(f"a connection: {1000 * plain_s:.1f} ms without TLS, {1000 * tls_s:.1f} ms with it", flush=True)


def measure_demo() -> None:
    """Part 2."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        local.prepare(Path(folder), "demo", [f"n{i}" for i in range(4)])
        print(
            f"the authority and the certificates of a demo: {1000 * (time.process_time() - began):.0f} ms", flush=True
        )


def measure_board() -> None:
    """Part 3."""
    with tempfile.TemporaryDirectory() as name:
        folder, (port, enrol) = Path(name), free_ports(2)
        config = load(None, {"run.rounds": 1, "run.nodes": 1, "run.cluster": f"board-{port}"}, environ={})
        (folder / "run.toml").write_text(config.to_toml())
        controller = edgenode(
            "controller", "--config", folder / "run.toml", "--listen", f"127.0.0.1:{port}", "--enrol",
            f"127.0.0.1:{enrol}", "--state-dir", folder / "controller", log=folder / "controller.log",
        )  # fmt: skip
        while "controller ready" not in (folder / "controller.log").read_text():
            time.sleep(0.05)
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = (sys.executable, "-m", "edgenode", "invite", "--controller", f"127.0.0.1:{port}", "--credentials",
                   str(folder / "controller" / local.OPERATOR))  # fmt: skip
        (line,) = re.findall(r"edgenode-invite-\S+", subprocess.check_output(command, env=_ENVIRON, text=True))
        spend([("run", "--config", folder / "run.toml", "--name", "pi-1", "--listen", "127.0.0.1:0", "--controller",
                f"127.0.0.1:{port}", "--state-dir", folder / "pi-1", "--join", line)], folder)  # fmt: skip
        board = Spent(time.monotonic() - began, _since(before))
        controller.wait()
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "import torch, torchvision"], env=_ENVIRON, check=True)
        torch = Spent(time.monotonic() - began, _since(before))
        for place, what in enumerate(("elapsed", "of processors")):
            print(f"new board: {board[place]:.1f} s {what} from `edgenode invite` to the end of `edgenode run --join` "
                  f"after one round. torch's import is {torch[place]:.1f} s of it", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    measure_rounds(options.repetitions)
    measure_demo()
    measure_board()


if __name__ == "__main__":
    main()
