"""A bridge of Linux network namespaces: several hosts on one machine. The machine's own network is not changed.

Each host is a namespace with one link (`eth0`, 10.77.0.N/24 or fd77::N/64, or both) to a bridge that has a namespace of
its own.
It needs root and iproute2: check `unavailable()` first. The faults also need iptables and tc: check `cannot_disturb()`.
Two bridges use the same addresses without a conflict. A fault is a context manager and ends with its block.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

_SERIAL = itertools.count()
_TERMINATE_S = 5.0
_INCOMING, _OUTGOING = (("INPUT", "-i", "eth0"),), (("OUTPUT", "-o", "eth0"),)


class NetnsError(Exception):
    """A command of iproute2 failed. The message contains its error."""


def unavailable() -> str | None:
    """Return why no bridge can be made here, or None. Tries it with one empty namespace."""
    if not sys.platform.startswith("linux"):
        return f"network namespaces need Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the ip command (iproute2)"
    name = unique("probe")
    try:
        ip("netns", "add", name)
        try:
            ip("-n", name, "link", "add", "probe", "type", "bridge")
            ip("netns", "exec", name, "true")
        finally:
            ip("netns", "delete", name)
    except NetnsError as exc:
        return f"cannot make a network namespace: {exc}"
    return None


def cannot_disturb() -> str | None:
    """Return why faults cannot be injected into a bridge here, or None."""
    if reason := unavailable():
        return reason
    missing = [tool for tool in ("iptables", "ip6tables", "tc", "ss") if shutil.which(tool) is None]
    return f"network faults need {', '.join(missing)}" if missing else None


class Network:
    """Namespaces of one test, as a context manager. Its end ends all spawned processes and removes everything.

    Attributes:
        namespaces: those of the hosts, by their index.
    """

    namespaces: tuple[str, ...]

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[Any]] = []
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def spawn(self, index: int, argv: Sequence[str], **popen_kwargs: Any) -> subprocess.Popen[Any]:
        """Start `argv` on host `index` (from 0). `ip` executes the program in its place: same pid."""
        command = ["ip", "netns", "exec", self.namespaces[index], *argv]
        child = subprocess.Popen(command, **popen_kwargs)
        self._children.append(child)
        return child

    def _build(self) -> None:
        raise NotImplementedError

    def _inside(self, namespace: str, *command: str) -> str:
        return ip("netns", "exec", namespace, *command)

    def _add_namespace(self, name: str) -> None:
        ip("netns", "add", name)
        self._undo.callback(ip, "netns", "delete", name)

    def _add_switch(self, namespace: str, name: str = "br0") -> None:
        """Add a bridge. Without a querier on it, snooping would stop multicast after some minutes."""
        bridge = ("type", "bridge", "mcast_snooping", "0", "stp_state", "0", "forward_delay", "0")
        ip("-n", namespace, "link", "add", name, *bridge)
        ip("-n", namespace, "link", "set", name, "up")

    def _plug(self, host: str, address: str, switch: str, port: str, device: str = "eth0", bridge: str = "br0") -> None:
        """Connect a host to a bridge. Both ends are created inside: nothing passes through the machine's namespace."""
        peer = ("peer", "name", device, "netns", host)
        ip("-n", switch, "link", "add", port, "type", "veth", *peer)
        ip("-n", switch, "link", "set", port, "master", bridge, "up")
        self._bring_up(host, address, device)

    def _bring_up(self, host: str, address: str, device: str) -> None:
        self._add_address(host, address, device)
        ip("-n", host, "link", "set", "lo", "up")
        ip("-n", host, "link", "set", device, "up")

    def _add_address(self, host: str, address: str, device: str = "eth0") -> None:
        """Give a host an address that it can use at once: nobody looks for another holder of an IPv6 address first."""
        ip("-n", host, "address", "add", address, "dev", device, *(("nodad",) if ":" in address else ()))

    def _end_children(self) -> None:
        living = [child for child in self._children if child.poll() is None]
        for child in living:
            child.terminate()
        for child in living:
            try:
                child.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for child in self._children:
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


class Bridge(Network):
    """`count` hosts on one bridge.

    >>> with Bridge(2) as bridge:
    ...     child = bridge.spawn(0, ["ping", "-c1", bridge.addresses[1]])

    Args:
        families: of each host, "4", "6" or "46": it has an address of IPv4, of IPv6, or of both. Empty for IPv4 only.

    Attributes:
        addresses: one of each host, of IPv4 if it has both.
    """

    def __init__(self, count: int, families: Sequence[str] = ()) -> None:
        if not 1 <= count <= 254:
            raise ValueError(f"a bridge has 1 to 254 hosts, not {count}")
        super().__init__()
        prefix = unique("br")
        self.namespaces = tuple(f"{prefix}-{number}" for number in range(1, count + 1))
        self._own = [_addresses(number, family) for number, family in enumerate(families or ["4"] * count, start=1)]
        self.addresses = tuple(own[0].partition("/")[0] for own in self._own)
        self._switch = f"{prefix}-switch"

    def add_address(self, index: int, address: str) -> None:
        """Give host `index` a further address of the bridge's network."""
        ip("-n", self.namespaces[index], "address", "add", f"{address}/24", "dev", "eth0")

    def set_link(self, index: int, up: bool) -> None:
        """Plug host `index` in or out at the bridge. The host keeps its address and routes."""
        ip("-n", self._switch, "link", "set", _port(index), "up" if up else "down")

    @contextmanager
    def unplugged(self, index: int) -> Iterator[None]:
        """Unplug host `index`: no packet reaches or leaves it. Its own interface stays up."""
        self.set_link(index, False)
        try:
            yield
        finally:
            self.set_link(index, True)

    @contextmanager
    def drop(self, index: int, incoming: bool = False, outgoing: bool = False) -> Iterator[None]:
        """Drop all packets of host `index`, in one direction or both."""
        with ExitStack() as undo:
            for way in (*_INCOMING[:incoming], *_OUTGOING[:outgoing]):
                undo.enter_context(self._update_rule(index, *way, "-j", "DROP"))
            yield

    @contextmanager
    def lose(self, index: int, share: float) -> Iterator[None]:
        """Drop a random share of the packets of host `index`, in each direction."""
        chance = ("-m", "statistic", "--mode", "random", "--probability", str(share))
        with ExitStack() as undo:
            for way in (*_INCOMING, *_OUTGOING):
                undo.enter_context(self._update_rule(index, *way, *chance, "-j", "DROP"))
            yield

    @contextmanager
    def split(self, ones: Sequence[int], others: Sequence[int]) -> Iterator[None]:
        """Separate two groups of hosts. Within each group, all packets pass."""
        with ExitStack() as undo:
            for near, far in (*itertools.product(ones, others), *itertools.product(others, ones)):
                way = ("INPUT", "-i", "eth0", "-s", self.addresses[far])
                undo.enter_context(self._update_rule(near, *way, "-j", "DROP", tools=("iptables",)))
            yield

    @contextmanager
    def block(self, sender: int, receiver: int, port: int = 7600) -> Iterator[None]:
        """Drop what one host sends to a port of another, as a firewall does. All else passes, back included."""
        way = ("INPUT", "-i", "eth0", "-s", self.addresses[sender], "-p", "tcp", "--dport", str(port))
        with self._update_rule(receiver, *way, "-j", "DROP", tools=("iptables",)):
            yield

    @contextmanager
    def sever(self, index: int) -> Iterator[None]:
        """Drop every packet of the TCP connections that host `index` has now. New connections work."""
        with ExitStack() as undo:
            for local, remote in self.connections(index):
                (here, port), (there, other) = local, remote
                back = ("INPUT", "-p", "tcp", "-s", there, "--sport", other, "-d", here, "--dport", port)
                forth = ("OUTPUT", "-p", "tcp", "-s", here, "--sport", port, "-d", there, "--dport", other)
                for way in (back, forth):
                    undo.enter_context(self._update_rule(index, *way, "-j", "DROP", tools=("iptables",)))
            yield

    @contextmanager
    def limit(self, index: int, bits_per_s: int) -> Iterator[None]:
        """Limit the link of host `index`, in each direction."""
        shape = ("tbf", "rate", f"{bits_per_s}bit", "burst", "8kb", "latency", "1s")
        ends = ((self.namespaces[index], "eth0"), (self._switch, _port(index)))
        with ExitStack() as undo:
            for namespace, device in ends:
                self._inside(namespace, "tc", "qdisc", "add", "dev", device, "root", *shape)
                undo.callback(self._inside, namespace, "tc", "qdisc", "delete", "dev", device, "root")
            yield

    def connections(self, index: int) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """Return (local, remote) address and port of every established TCP connection of host `index`."""
        lines = self._inside(self.namespaces[index], "ss", "-Htn", "state", "established").splitlines()
        return [(_endpoint(line.split()[-2]), _endpoint(line.split()[-1])) for line in lines]

    @contextmanager
    def _update_rule(self, index: int, *rule: str, tools: Sequence[str] = ("iptables", "ip6tables")) -> Iterator[None]:
        with ExitStack() as undo:
            for tool in tools:
                self._inside(self.namespaces[index], tool, "-w", "-I", *rule)
                undo.callback(self._inside, self.namespaces[index], tool, "-w", "-D", *rule)
            yield

    def _build(self) -> None:
        self._add_namespace(self._switch)
        self._add_switch(self._switch)
        for index, host in enumerate(self.namespaces):
            self._add_namespace(host)
            first, *more = self._own[index]
            self._plug(host, first, self._switch, _port(index))
            for address in more:
                self._add_address(host, address)
            if "." in first:
                ip("-n", host, "route", "add", "224.0.0.0/4", "dev", "eth0")
        self._undo.callback(self._end_children)


def unique(word: str) -> str:
    """A name that no other namespace has."""
    return f"edgenode-{os.getpid()}-{word}{next(_SERIAL)}"


def _addresses(number: int, families: str) -> list[str]:
    """The addresses of one host of a bridge, each with the length of its network's prefix."""
    by_family = {"4": f"10.77.0.{number}/24", "6": f"fd77::{number}/64"}
    return [by_family[family] for family in families]


def _port(index: int) -> str:
    return f"host{index + 1}"


def _endpoint(text: str) -> tuple[str, str]:
    """ "[::ffff:10.77.0.2]:7600", as ss writes what a dual-stack socket accepted, is ("10.77.0.2", "7600")."""
    host, _, port = text.rpartition(":")
    return host.strip("[]").removeprefix("::ffff:"), port


def ip(*arguments: str) -> str:
    """Run iproute2, and return what it prints."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NetnsError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
