"""An invite becomes a certificate over real HTTPS. A man in the middle learns no secret."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import tracemalloc
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from edgenode.addresses import split_address
from edgenode.errors import ClockError, ConfigError, NotAdmitted, SecurityError, TransportError
from edgenode.net import http
from edgenode.net.discovery import Discovery
from edgenode.net.enrolment_client import enrol
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_service import Service
from edgenode.security import certificates
from edgenode.security.authority import Authority
from edgenode.security.invite import Invite
from edgenode.security.subject import CONTROLLER, Role, Subject
from tests.floods.connections import HELLO
from tests.net.peer_ends import is_over, until

TTL = timedelta(minutes=30)
ANY = "127.0.0.1:0"
REFUSED_S = 0.05
_AT_ONCE = 33  # devices: one more than the service answers at a time


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority", "home")
    authority.controller()
    return authority


@asynccontextmanager
async def served(authority: Authority, app: Callable[..., object] | None = None) -> AsyncIterator[str]:
    """The enrolment service of an authority. Yields host:port."""
    app = app or enrolment_app(authority, REFUSED_S)
    async with serving_http(app, ANY, "--enrol", authority.controller_file) as url:
        yield url.removeprefix("https://")


def invite(authority: Authority, *addresses: str, name: str = "", role: Role = "node") -> Invite:
    secret = authority.invite(role, name, TTL)
    return Invite(secret, certificates.fingerprint(authority.certificate), tuple(map(split_address, addresses)))


async def test_invite_becomes_a_certificate(authority: Authority) -> None:
    async with served(authority) as address:
        device = await asyncio.to_thread(enrol, invite(authority, address), "n0")
    assert device.subject == Subject("node", "n0")
    assert authority.admits(device.subject, certificates.public_key_id(device.certificate))


async def test_second_address_is_tried_if_the_first_does_not_answer(authority: Authority) -> None:
    async with served(authority) as address:
        await asyncio.to_thread(enrol, invite(authority, "127.0.0.1:1", address), "n0")


async def test_refusal_names_the_reason(authority: Authority) -> None:
    async with served(authority) as address:
        line = invite(authority, address, name="n1")
        with pytest.raises(NotAdmitted, match="the invite is for node n1, not for n0: start it with --name n1"):
            await asyncio.to_thread(enrol, line, "n0")
        assert (await asyncio.to_thread(enrol, line)).subject == Subject("node", "n1")  # it takes the name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "chooses its name"),
        ("\u20ac", "name"),
        ("controller", "only a controller has it"),
        *((name, "cannot be a name") for name in ("../x", "*", "a\0b", "x" * 300)),
    ],
)
async def test_name_that_is_none_is_refused(authority: Authority, name: str, reason: str) -> None:
    async with served(authority) as address:
        with pytest.raises(NotAdmitted, match=reason):
            await asyncio.to_thread(enrol, invite(authority, address), name)
    assert list(authority.subjects()) == [CONTROLLER]


async def test_invite_of_another_cluster_is_not_used_up(authority: Authority) -> None:
    async with served(authority) as address:
        line = invite(authority, address)
        with pytest.raises(ConfigError, match=r"for the cluster home, but run\.cluster is lab"):
            await asyncio.to_thread(enrol, line, "n0", "lab")
        await asyncio.to_thread(enrol, line, "n0", "home")


@pytest.mark.slow
async def test_controller_is_found_by_mdns_and_beyond_impostors(authority: Authority, tmp_path: Path) -> None:
    """The invite has an address that is wrong by now. An impostor announces itself, too."""
    cluster = f"mdns-{os.getpid()}"
    home = Authority(tmp_path / "home", cluster)
    home.controller()
    async with served(home) as address, Discovery(cluster, (LOOPBACK,)) as discovery:
        port = split_address(address)[1]
        for name, host in (("a-impostor", "127.0.0.2"), ("controller", LOOPBACK)):
            await discovery.announce(Service("controller", cluster, name, (host,), 1, protocol=1))
        async with serving_http(
            enrolment_app(authority), f"127.0.0.2:{port}", "--enrol", authority.controller_file
        ):  # fmt: skip
            line = invite(home, f"127.0.0.3:{port}")
            assert (await asyncio.to_thread(enrol, line, "n0", cluster)).authority == home.certificate


async def test_controller_is_tried_at_hosts_that_the_device_knows(authority: Authority) -> None:
    async with served(authority) as address:
        line = invite(authority, f"127.0.0.3:{split_address(address)[1]}")
        await asyncio.to_thread(enrol, line, "n0", "home", ["127.0.0.1"])


async def test_log_names_who_has_enrolled(authority: Authority) -> None:
    """Also where the invite gives the name, and the device asks for none."""
    async with served(authority) as address:
        with capture_logs() as logged:
            line = invite(authority, address, name="anna", role="operator")
            await asyncio.to_thread(enrol, line, "")
    assert [entry["subject"] for entry in logged] == ["operator anna"]


@pytest.mark.slow
async def test_refused_devices_take_one_line_of_the_log(authority: Authority) -> None:
    async with served(authority) as address:
        line = replace(invite(authority, address), secret=os.urandom(10))
        with capture_logs() as logged:
            for _ in range(8):
                with pytest.raises(NotAdmitted, match="the invite is not valid"):
                    await asyncio.to_thread(enrol, line, "n0")
    assert [(entry["event"], entry["device"]) for entry in logged] == [("refused to enrol a device", "127.0.0.1")]


@pytest.mark.slow
async def test_secrets_cannot_be_guessed(authority: Authority) -> None:
    """At most 32 guesses at a time, however many devices guess."""
    app = enrolment_app(authority, refused_s=0.5)
    async with served(authority, app) as address:
        wrong = replace(invite(authority, address), secret=bytes(10))
        with ThreadPoolExecutor(_AT_ONCE) as devices:
            loop = asyncio.get_running_loop()
            began = loop.time()
            guesses = [loop.run_in_executor(devices, enrol, wrong, f"n{i}") for i in range(_AT_ONCE)]
            results = await asyncio.gather(*guesses, return_exceptions=True)
            took = loop.time() - began
    assert [type(result) for result in results] == [NotAdmitted] * _AT_ONCE
    assert took > 1.0


@pytest.mark.slow
async def test_no_answer_names_all_addresses(authority: Authority) -> None:
    with pytest.raises(TransportError, match=r"does not answer \(127\.0\.0\.1:1: .*; 127\.0\.0\.1:2: "):
        await asyncio.to_thread(enrol, invite(authority, "127.0.0.1:1", "127.0.0.1:2"), "n0")


@pytest.mark.slow
async def test_hundred_uses_of_one_invite_give_one_certificate(authority: Authority) -> None:
    async with served(authority) as address:
        line = invite(authority, address)
        with ThreadPoolExecutor(_AT_ONCE) as devices:  # the default pool is the server's
            loop = asyncio.get_running_loop()
            uses = [loop.run_in_executor(devices, enrol, line, f"n{i}") for i in range(100)]
            results = await asyncio.gather(*uses, return_exceptions=True)
    assert Counter(map(type, results)) == {certificates.Credentials: 1, NotAdmitted: 99}, set(map(repr, results))
    assert [subject.role for subject in authority.subjects()] == ["controller", "node"]


def recording(app: Starlette, received: bytearray) -> Callable[..., object]:
    """An app that records the head and body of every request, decrypted."""

    async def recorded(scope: dict[str, object], receive: Callable[..., object], send: Callable[..., object]) -> None:
        received.extend(repr(scope).encode())

        async def listen() -> object:
            message = await receive()  # type: ignore[misc]
            received.extend(repr(message).encode())
            return message

        await app(scope, listen, send)  # type: ignore[arg-type]

    return recorded


@pytest.mark.slow
@pytest.mark.parametrize("pretends", ["its own authority", "the true authority"])
async def test_man_in_the_middle_learns_no_secret(authority: Authority, tmp_path: Path, pretends: str) -> None:
    evil = Authority(tmp_path / "evil", "home")
    evil.controller()
    shown = evil if pretends == "its own authority" else authority
    received = bytearray()
    line = invite(authority)
    async with served(evil, recording(enrolment_app(shown), received)) as address:
        with pytest.raises(SecurityError, match=r"another cluster|not the controller of the invite"):
            await asyncio.to_thread(enrol, replace(line, addresses=(split_address(address),)), "n0")
    assert b"/authority" in received
    assert b"/enrol" not in received
    assert line.secret.hex().encode() not in received
    assert list(evil.subjects()) == [CONTROLLER]


@pytest.mark.slow
async def test_clock_is_named_where_the_controller_seems_to_have_expired(authority: Authority, tmp_path: Path) -> None:
    late = authority.make(CONTROLLER, timedelta(days=-10))
    file = tmp_path / "late.pem"
    file.write_bytes(late.key + late.certificate)
    async with serving_http(enrolment_app(authority), ANY, "--enrol", file) as url:
        line = invite(authority, url.removeprefix("https://"))
        with pytest.raises(ClockError, match=r"127.0.0.1:\d+: this device's clock says .*: set the clock"):
            await asyncio.to_thread(enrol, line, "n0")


async def test_device_enrols_beside_300_half_open_handshakes(authority: Authority) -> None:
    async with served(authority) as address, AsyncExitStack() as stack, asyncio.timeout(30):
        where = split_address(address)
        elsewhere = partial(socket.create_connection, where, source_address=("127.0.0.2", 0))
        crowd = [stack.enter_context(await asyncio.to_thread(elsewhere)) for _ in range(300)]
        for half_open in crowd:
            half_open.setblocking(False)
        await asyncio.to_thread(enrol, invite(authority, address), "n0")
        await until(lambda: sum(map(is_over, crowd)) >= 300 - 192)


async def test_handshake_begins_with_a_whole_client_hello(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sends no ClientHello costs none."""
    begun: list[object] = []
    loop = asyncio.get_running_loop()
    connect = loop.connect_accepted_socket

    async def counted(*arguments: Any, **options: Any) -> object:
        begun.append(arguments)
        return await connect(*arguments, **options)

    monkeypatch.setattr(loop, "connect_accepted_socket", counted)
    async with served(authority) as address, AsyncExitStack() as stack, asyncio.timeout(5):
        where = split_address(address)

        async def sender(first: bytes) -> socket.socket:
            one = stack.enter_context(await asyncio.to_thread(socket.create_connection, where))
            one.setblocking(False)
            one.send(first)
            return one

        silent, half, garbage = [await sender(first) for first in (b"", HELLO[:100], b"GET / HTTP/1.1\r\n\r\n")]
        await until(lambda: is_over(garbage))  # at once
        assert not is_over(silent) and not is_over(half)
        assert begun == []
        await sender(HELLO)
        await until(lambda: len(begun) == 1)


async def test_handshake_takes_little_memory(authority: Authority) -> None:
    """asyncio's own buffer of 256 KiB is kept for a while after a handshake has ended."""
    async with served(authority) as address, AsyncExitStack() as stack, asyncio.timeout(20):
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for _ in range(40):
            reader, writer = await asyncio.open_connection(*split_address(address))
            stack.callback(writer.close)
            writer.write(HELLO)
            assert await reader.read(1)  # the handshake is in progress
        assert tracemalloc.get_traced_memory()[1] < 40 * 100_000


@pytest.mark.parametrize("ending", ["the client", "a newer one", "the time", "garbage"])
async def test_handshake_that_fails_leaves_nothing_behind(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """A flood would make more garbage than the collector frees in time."""
    if ending == "the time":
        monkeypatch.setattr(http, "HANDSHAKE_S", 0.5)
    async with served(authority) as address, AsyncExitStack() as stack, asyncio.timeout(20):
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*split_address(address))
            stack.callback(writer.close)
            writer.write(HELLO)
            assert await reader.read(1)  # the handshake is in progress
            if ending == "the client":
                writer.transport.abort()
            elif ending == "garbage":
                writer.write(b"x" * 100)
        if ending == "a newer one":
            for task in asyncio.all_tasks():
                if task.get_name().startswith("hello"):
                    task.cancel()
            del task
        await until(lambda: not any(type(one) is SSLProtocol for one in gc.get_objects()))


@pytest.mark.parametrize("first", [b"", HELLO[:100], HELLO], ids=["silent", "half", "whole"])
async def test_handshake_that_does_not_end_is_hung_up_on(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(http, "HANDSHAKE_S", 0.2)
    async with served(authority) as address, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection(*split_address(address))
        writer.write(first)
        assert (await reader.read() == b"") == (first != HELLO)  # to a whole one, the server answers
        assert await reader.read() == b""
        writer.close()
