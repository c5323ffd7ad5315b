"""The faults of a bridge, one host and one direction at a time. Each ends with its block."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.e2e import netns
from tests.e2e.fleet import until

_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]

ECHO = """
import socket, threading
def serve(connection):
    while data := connection.recv(1 << 16):
        connection.sendall(data)
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
COUNT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7001))
s.settimeout(0.1)
print("ready", flush=True)
sys.stdin.readline()  # all is sent, and the socket holds all that arrived
count = 0
try:
    while s.recv(9):
        count += 1
except TimeoutError:
    print(count)
"""
SHOUT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[2])):
    try:
        s.sendto(b"hello", (sys.argv[1], 7001))
    except OSError:  # dropped on its way out
        pass
"""
SEND = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=2)
for line in sys.stdin:
    data = bytes(int(line))
    connection.sendall(data)
    left = len(data)
    while left:
        left -= len(connection.recv(left))
    print(len(data), flush=True)
"""


@pytest.fixture
def bridge() -> Iterator[netns.Bridge]:
    with netns.Bridge(3) as bridge:
        yield bridge


def arrived(bridge: netns.Bridge, sender: int, receiver: int, count: int = 1) -> int:
    """Send datagrams, one way only, unlike a ping, and return how many arrive."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = bridge.spawn(receiver, [sys.executable, "-c", COUNT], **pipes)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    there = bridge.addresses[receiver]
    bridge.spawn(sender, [sys.executable, "-c", SHOUT, there, str(count)], stderr=subprocess.DEVNULL).wait(10)
    return int(child.communicate(b"\n", timeout=10)[0])


def reaches(bridge: netns.Bridge, sender: int, receiver: int) -> bool:
    return arrived(bridge, sender, receiver) == 1


def talk(bridge: netns.Bridge) -> subprocess.Popen[bytes]:
    """Connect host 1 to host 0, which echoes. A number of bytes on stdin sends that many and prints how many return."""
    server = bridge.spawn(0, [sys.executable, "-c", ECHO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    return connect(bridge)


def connect(bridge: netns.Bridge) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SEND, bridge.addresses[0]]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return bridge.spawn(1, command, **pipes)


def echo(client: subprocess.Popen[bytes], size: int) -> bytes:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(b"%d\n" % size)
    client.stdin.flush()
    return client.stdout.readline()


def test_drop_works_one_way_or_both_and_ends(bridge: netns.Bridge) -> None:
    with bridge.drop(0, incoming=True):
        assert not reaches(bridge, 1, 0)
        assert reaches(bridge, 0, 1)
    with bridge.drop(0, outgoing=True):
        assert reaches(bridge, 1, 0)
        assert not reaches(bridge, 0, 1)
    with bridge.unplugged(0):
        assert not reaches(bridge, 0, 1)
    until(lambda: reaches(bridge, 0, 1), "the link is up again")


def test_split_separates_two_groups_only(bridge: netns.Bridge) -> None:
    with bridge.split([0], [1, 2]):
        assert not reaches(bridge, 0, 2)
        assert not reaches(bridge, 2, 0)
        assert reaches(bridge, 1, 2)
    assert reaches(bridge, 0, 2)


def test_lose_drops_its_share_in_each_direction(bridge: netns.Bridge) -> None:
    with bridge.lose(1, 0.3):
        assert 90 < arrived(bridge, 0, 1, 200) < 190  # 140 on average, give or take 6.5
        assert 90 < arrived(bridge, 1, 0, 200) < 190
        assert arrived(bridge, 0, 2, 200) == 200
    assert arrived(bridge, 0, 1, 200) == 200


def test_limit_slows_a_link_down_and_ends(bridge: netns.Bridge) -> None:
    client = talk(bridge)

    def took_s() -> float:
        began = time.monotonic()
        assert echo(client, 64_000) == b"64000\n"
        return time.monotonic() - began

    with bridge.limit(1, 256_000):
        assert took_s() > 1.0  # 2 s each way, overlapping, less the burst
    until(lambda: took_s() < 0.5, "the link is quick again")


def test_sever_silences_old_connections_only(bridge: netns.Bridge) -> None:
    old = talk(bridge)
    assert echo(old, 10) == b"10\n"
    with bridge.sever(1):
        new = connect(bridge)
        assert echo(new, 10) == b"10\n"
        assert echo(old, 10) == b""  # the client gave up
