"""What strangers can do at the port of a gRPC server, and that members notice nothing of it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgenode.net import front, rpc
from edgenode.net.front import peer_of
from edgenode.net.open_files import FILES_OF_A_LINK
from edgenode.net.places import Places
from edgenode.net.rpc import channel, serves, serving
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.subject import CONTROLLER, role_dns_name
from tests.floods.connections import SENT
from tests.net.peer_ends import is_over, open_files, until

CA = make_authority("home")
TLS = MutualTls(make_credentials(CA, CONTROLLER), lambda subject, key_id: True)
NAME = role_dns_name("controller")
HEALTH = health_pb2.HealthCheckRequest()
STRANGERS = 12
pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.fixture(autouse=True)
def _few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "places_for_links", lambda: Places(STRANGERS, 8, 4))


@contextmanager
def crowd(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections from 127.0.1.1, 127.0.1.2, ..."""
    with ExitStack() as stack:
        made = []
        for i in range(count):
            one = stack.enter_context(socket.socket())
            one.bind((f"127.0.1.{1 + i % 250}", 0))
            one.connect(("127.0.0.1", port))
            one.setblocking(False)
            one.send(first)
            made.append(one)
        yield made


async def checked(port: int, security: Security = TLS, host: str = "127.0.0.1") -> grpc.aio.Channel:
    """A channel on which a call was answered."""
    there = channel(f"{host}:{port}", security, NAME)
    await health_pb2_grpc.HealthStub(there).Check(HEALTH, timeout=20, wait_for_ready=True)
    return there


@pytest.mark.parametrize("kind", ["silent", "half"])
async def test_stranger_costs_one_file_and_is_hung_up_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_OPENING_S", 0.4)
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(20):
        before = open_files()
        with crowd(port, 5, SENT[kind]) as strangers:
            await asyncio.sleep(0.2)
            assert open_files() == before + 2 * 5  # both ends are in this process
            await until(lambda: all(map(is_over, strangers)))


@pytest.mark.parametrize("kind", ["garbage", "request"])
async def test_who_does_not_speak_tls_is_hung_up_on_at_once(kind: str) -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(20):
        with crowd(port, 5, SENT[kind]) as strangers:
            await until(lambda: all(map(is_over, strangers)))


@pytest.mark.parametrize("kind", SENT)
async def test_crowd_takes_no_more_than_the_places_of_strangers(kind: str) -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(20):
        before = open_files()
        with crowd(port, 200, SENT[kind]) as strangers:
            await until(lambda: sum(map(is_over, strangers)) >= 200 - STRANGERS)
            assert open_files() <= before + 200 + FILES_OF_A_LINK * STRANGERS


@pytest.mark.parametrize("kind", SENT)
async def test_member_keeps_its_connection_and_connects_again(kind: str) -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(40):
        member = await checked(port)
        with crowd(port, 100, SENT[kind]), crowd(port, 100, SENT[kind]):
            await health_pb2_grpc.HealthStub(member).Check(HEALTH, timeout=5)
            began = asyncio.get_running_loop().time()
            again = await checked(port)
            assert asyncio.get_running_loop().time() - began < 5
            await member.close()
            await again.close()


async def test_newcomer_gets_in_beside_a_crowd_from_elsewhere() -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(40):
        with crowd(port, 100):
            await (await checked(port)).close()


async def test_connections_of_one_key_are_limited() -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(40):
        channels = [await checked(port) for _ in range(6)]
        states = [one.get_state() for one in channels]
        await until(lambda: sum(one.get_state() is not grpc.ChannelConnectivity.READY for one in channels) == 2)
        assert states.count(grpc.ChannelConnectivity.READY) >= 4
        for one in channels:
            await one.close()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0", "0.0.0.0:0"])
@pytest.mark.parametrize("security", [TLS, INSECURE])
async def test_service_sees_the_peer_of_the_caller(listen: str, security: Security) -> None:
    seen: list[str] = []

    async def note(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen.append(peer_of(context))
        return b""

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(note)}
    methods = grpc.method_handlers_generic_handler("edgenode.v1.OperatorService", {"Status": handlers["Check"]})
    add = [("test", lambda server: server.add_generic_rpc_handlers((methods,)))]
    host = "[::1]" if listen.startswith("[") else "127.0.0.1"
    async with serving(listen, add, 0.0, security=security) as port, asyncio.timeout(20):
        there = channel(f"{host}:{port}", security, NAME)
        async with there:
            await there.unary_unary("/edgenode.v1.OperatorService/Status")(b"", timeout=10)
    assert seen[0].rpartition(":")[0] == host


async def test_wildcard_takes_ipv6_as_well() -> None:
    async with serving("0.0.0.0:0", [], 0.0, security=TLS) as port:
        for host in ("127.0.0.1", "[::1]"):
            await (await checked(port, host=host)).close()


@pytest.mark.parametrize("security", [TLS, INSECURE])
async def test_large_messages_pass_both_ways_under_backpressure(security: Security) -> None:
    async def echo(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async for request in requests:
            await asyncio.sleep(0.01)
            yield request

    handlers = {"Status": grpc.stream_stream_rpc_method_handler(echo)}
    methods = grpc.method_handlers_generic_handler("edgenode.v1.OperatorService", handlers)
    add = [("test", lambda server: server.add_generic_rpc_handlers((methods,)))]
    sent = [os.urandom(3_000_000) for _ in range(8)]
    async with serving("127.0.0.1:0", add, 0.0, security=security) as port, asyncio.timeout(60):
        there = channel(f"127.0.0.1:{port}", security, NAME)
        async with there:
            stream = there.stream_stream("/edgenode.v1.OperatorService/Status")()

            async def write() -> None:
                for message in sent:
                    await stream.write(message)
                await stream.done_writing()

            writing = asyncio.create_task(write())
            assert [message async for message in stream] == sent
            await writing


async def test_stopped_server_sends_what_its_calls_have_answered() -> None:
    begun = asyncio.Event()

    async def slow(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        begun.set()
        await asyncio.sleep(0.3)
        return b"done"

    handlers = {"Status": grpc.unary_unary_rpc_method_handler(slow)}
    methods = grpc.method_handlers_generic_handler("edgenode.v1.OperatorService", handlers)
    add = [("test", lambda server: server.add_generic_rpc_handlers((methods,)))]
    async with serving("127.0.0.1:0", add, 5.0, security=TLS) as port:
        there = channel(f"127.0.0.1:{port}", TLS, NAME)
        call = asyncio.ensure_future(there.unary_unary("/edgenode.v1.OperatorService/Status")(b"", timeout=10))
        await begun.wait()
    assert await call == b"done"
    await there.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the names are in a private folder")
async def test_name_of_the_next_connection_to_grpc_cannot_be_guessed() -> None:
    """Every user of the machine reads these names, and could take the next one before."""

    def rests() -> set[str]:
        """The ends of those that this process has: column 7 is the number of the socket."""
        found = re.findall(r"(\d+) @edgenode-\w+/(\w+)-127\.0\.0\.1:\d+$", Path("/proc/net/unix").read_text(), re.M)
        ours = {link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.exists()}
        return {rest for number, rest in found if f"socket:[{number}]" in ours}

    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(20):
        before = rests()
        channels = [await checked(port) for _ in range(3)]
        new = rests() - before
        assert len(new) == 3
        assert all(len(rest) == 16 for rest in new)
        for one in channels:
            await one.close()


async def test_half_closed_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port, asyncio.timeout(20):
        with crowd(port, 1, SENT["hello"]) as (one,):
            await asyncio.sleep(0.3)  # gRPC has it
            one.shutdown(socket.SHUT_WR)
            await until(lambda: is_over(one))


async def test_server_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port:
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - nobody else can connect to gRPC
        await (await checked(port)).close()
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    before = open_files()
    for _ in range(3):
        async with serving("127.0.0.1:0", [], 0.0, security=TLS) as port:
            await serves(f"127.0.0.1:{port}", 10, None)
    await until(lambda: open_files() <= before)
