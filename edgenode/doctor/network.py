"""Checks of the network: ports, multicast on each interface, other processes, and the controller's clock."""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from zeroconf import DNSOutgoing, DNSQuestion  # type: ignore[attr-defined]  # there, and documented

from edgenode.addresses import join_address, split_address
from edgenode.core.protocol.status import ClusterStatus, RelayView
from edgenode.core.wording import counted, listed
from edgenode.doctor import Finding, Level, ok, problem, warning
from edgenode.errors import ClockError, EdgenodeError, TransportError
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK, WILDCARDS, interface_of, interfaces_for, own_addresses
from edgenode.net.mdns_service import SERVICE_TYPES, Service
from edgenode.net.operator_client import operator_client
from edgenode.net.reasons import COMPARE_CLOCKS
from edgenode.net.rpc import accepts, serves
from edgenode.net.tls import INSECURE, Security
from edgenode.security.subject import Subject

_GROUP, _GROUP6, _PORT = "224.0.0.251", "ff02::fb", 5353
_IP_MULTICAST_ALL = 49  # Linux: with 0, a socket receives only what arrives at its own interface
_PTR, _IN, _QUERY = 12, 1, 0
_LISTEN_S = 2.0
_ASK_EVERY_S = 0.7
_DIAL_S = 2.0
_SKEW_S = 5.0


async def port(check: str, listen: str, needed: bool, security: Security | None = INSECURE) -> Finding:
    """Check that an address can be bound. It is fine if edgenode serves there already."""
    host, number = split_address(listen)
    try:
        family, *_, address = socket.getaddrinfo(host or None, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        return ok(check, f"{listen} is free")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
    with suppress(EdgenodeError):
        await serves(join_address(LOOPBACK if host in WILDCARDS else host, number), _DIAL_S, security)
        return ok(check, f"edgenode serves at {listen} already")
    text = f"cannot listen on {listen}: {reason}"
    if needed:
        return problem(check, text, "end the program that uses it, or choose another --listen")
    return warning(check, text, "to run the controller here, choose another address for it")


# --- multicast --------------------------------------------------------------------------------------


async def multicast(interfaces: Sequence[str], needed: bool) -> AsyncIterator[Finding]:
    """Send an mDNS query on each interface: does it come back, and does any other device answer?

    Args:
        interfaces: their addresses.
        needed: True if a run needs multicast on at least one of them.
    """
    of_each = {_interface_and_family(address): address for address in reversed(interfaces) if address != LOOPBACK}
    networks = [*reversed(of_each.values())]
    if not networks:
        yield warning(
            "multicast", "no interface except loopback is up", "connect the network, or run all nodes on this machine"
        )
    ours = frozenset((*interfaces, *own_addresses()))
    found = await asyncio.gather(*(asyncio.to_thread(_multicast_on, a, ours, needed) for a in networks))
    suffices = not needed or any(finding.level is not Level.PROBLEM for finding in found)
    for finding in found:
        is_tolerable = suffices and finding.level is Level.PROBLEM
        yield replace(finding, level=Level.WARNING) if is_tolerable else finding


def _multicast_on(address: str, ours: frozenset[str], needed: bool) -> Finding:
    name, group = _interface(address), _GROUP6 if ":" in address else _GROUP
    instead = ", or use --controller H:P, which needs no multicast" if needed else ""
    try:
        came_back, sources = _echo(address)
    except OSError as exc:
        text = f"{name}: {exc.strerror or exc}"
        return problem("multicast", text, f"let UDP port {_PORT} out of the firewall{instead}")
    if not came_back:
        text = f"{name}: what is sent to {join_address(group, _PORT)} does not come back"
        return problem("multicast", text, f"let UDP port {_PORT} through the firewall, in and out{instead}")
    if others := sorted(sources - ours):
        return ok("multicast", f"{name}: works, with answers from {listed(others)}")
    text = f"{name}: works, but no other device answers"
    return warning(
        "multicast",
        text,
        f"if other devices are on, the network blocks multicast between them and this one{instead}",
    )


def _echo(address: str) -> tuple[bool, set[str]]:
    """(whether the query came back, the addresses that packets came from)."""
    question, came_back, sources = _question(), False, set()
    with _socket(address) as ours:
        end = ask_at = time.monotonic()
        end += _LISTEN_S
        while (now := time.monotonic()) < end:
            if now >= ask_at:
                ours.sendto(question, (_GROUP6 if ":" in address else _GROUP, _PORT))
                ask_at = now + _ASK_EVERY_S
            ours.settimeout(max(0.01, min(ask_at, end) - now))
            with suppress(TimeoutError):
                packet, source = ours.recvfrom(1 << 16)
                sources.add(source[0].partition("%")[0])
                came_back = came_back or packet == question
    return came_back, sources


def _question() -> bytes:
    """A query that every responder answers, with a random name to recognise it by."""
    out = DNSOutgoing(_QUERY)
    own = f"edgenode-doctor-{secrets.token_hex(8)}.local."
    for asked in ("_services._dns-sd._udp.local.", *SERVICE_TYPES.values(), own):
        out.add_question(DNSQuestion(asked, _PTR, _IN))
    (packet,) = out.packets()
    return packet


def _socket(address: str) -> socket.socket:
    """A socket of the mDNS group on one interface. Other programs may have one too."""
    ours = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if ours.family == socket.AF_INET6:
            _take_group6(ours, address)
        else:
            _take_group(ours, address)
    except OSError:
        ours.close()
        raise
    return ours


def _take_group(ours: socket.socket, address: str) -> None:
    ours.bind(("", _PORT))
    interface = socket.inet_aton(address)
    ours.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(_GROUP) + interface)
    ours.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
    ours.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    with suppress(OSError):  # not on Linux
        ours.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)


def _take_group6(ours: socket.socket, address: str) -> None:
    ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    _, index = interface_of(address)
    ours.bind((_GROUP6, _PORT, 0, index))  # of the group: it receives what arrives at this interface only
    interface = struct.pack("@I", index)
    ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, _GROUP6) + interface)
    ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
    ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)


def _interface_and_family(address: str) -> tuple[str, bool]:
    """What one socket of mDNS serves, whatever other addresses the interface has."""
    return _interface(address).partition(" ")[0], ":" in address


def _interface(address: str) -> str:
    try:
        return f"{interface_of(address)[0]} ({address})"
    except OSError:
        return address


# --- other processes --------------------------------------------------------------------------------


async def others(
    cluster: str, controller: str, peers: Sequence[str], listen_host: str, security: Security | None = INSECURE
) -> AsyncIterator[Finding]:
    """Check which controllers and nodes are visible and answer, and how far the controller's clock differs.

    Args:
        controller: "mdns", "none" or host:port.
        peers: host:port of the given peers.
        security: None if this device is not enrolled yet.
    """
    nodes: dict[str, tuple[str, ...]] = {peer: (peer,) for peer in peers}
    if controller != "mdns":
        controllers = {controller} - {"none"}
    else:
        try:
            announced, announced_nodes, other_clusters = await _announced(cluster, listen_host)
        except TransportError as exc:
            yield problem("controller", str(exc), "use --controller H:P, which needs no mDNS")
            return
        controllers = {service.targets[0] for service in announced}
        nodes |= {service.name: service.targets for service in announced_nodes}
        if not controllers:
            seen = f"; other clusters are {listed(other_clusters)}" if other_clusters else ""
            text = f"no controller of cluster {cluster!r} is announced by mDNS{seen}"
            yield warning("controller", text, "start edgenode controller on one device, or use --controller H:P")
    relays: bool | None = None  # what the controller says, if it answers
    for target in sorted(controllers):
        try:
            if security is None:
                await serves(target, _DIAL_S, None)
                yield ok("controller", f"{target} answers; enrol this device to see more")
                continue
            status, ahead_s = await _status(target, security)
        except EdgenodeError as exc:
            yield problem("controller", str(exc), _remedy(exc))
            continue
        yield _controller(cluster, target, status)
        yield _clock(ahead_s)
        for relay in status.relay_processes:
            yield await _relay(relay, security)
        nodes |= {node.node: (node.address,) for node in status.nodes}
        relays = relays or status.relays
    yield await _nodes(nodes, security, relays)


async def _announced(cluster: str, listen_host: str) -> tuple[list[Service], list[Service], list[str]]:
    """(controllers of the cluster, its nodes, the names of other clusters)."""
    async with Discovery(cluster, interfaces_for(listen_host)) as discovery:
        await asyncio.sleep(_LISTEN_S)
        controllers, nodes = (list(discovery.services(kind).values()) for kind in ("controller", "node"))
        return controllers, nodes, discovery.other_clusters("controller")


async def _status(target: str, security: Security) -> tuple[ClusterStatus, float]:
    """A controller's status, and how far its clock is ahead of ours, if the answer takes half of the round trip."""
    async with operator_client(target, _DIAL_S, security) as client:
        asked = time.time()
        status = await client.status()
        return status, status.unix_time_s - (asked + time.time()) / 2


def _controller(cluster: str, target: str, status: ClusterStatus) -> Finding:
    if status.cluster != cluster:
        text = f"{target} belongs to cluster {status.cluster!r}, not {cluster!r}"
        return problem("controller", text, "set the same run.cluster on all devices, or choose another --controller")
    missing = f", waits for {status.missing} more" if status.missing else ""
    relays = ", relays for nodes that nobody can dial" if status.relays else ""
    return ok("controller", f"{target} answers, has {counted(len(status.nodes), 'node')}{missing}{relays}")


def _clock(ahead_s: float) -> Finding:
    text = f"the controller's clock is {abs(ahead_s):,.1f} s {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) < _SKEW_S:
        return ok("clock", text)
    return warning("clock", text, "a run works, but log times mislead: timedatectl set-ntp true")


async def _relay(relay: RelayView, security: Security) -> Finding:
    if await accepts(relay.address, _DIAL_S, security, Subject("relay", relay.name).dns_name):
        return ok("relay", f"{relay.name} at {relay.address} answers")
    text = f"no answer from the relay {relay.name} at {relay.address}"
    return warning("relay", text, "start it, open its port, or name its address as --public of edgenode relay")


async def _nodes(nodes: Mapping[str, tuple[str, ...]], security: Security | None, relays: bool | None) -> Finding:
    """The way to each node: direct if it answers.

    Args:
        relays: a process relays for nodes that nobody can dial. None if there is no controller.
    """
    if not nodes:
        return ok("nodes", "no node is visible yet")
    errors = await asyncio.gather(*(_error_of(targets, security) for targets in nodes.values()))
    seen = listed([name if name in targets else f"{name} at {targets[0]}" for name, targets in nodes.items()])
    if silent := {name: error for name, error in zip(nodes, errors, strict=True) if error is not None}:
        first = next(iter(silent.values()))
        text = f"{seen}; no answer from {listed(list(silent))} ({first})"
        if relays:
            return ok("nodes", f"{text}, so what goes there is relayed, or goes over a connection that it opens")
        otherwise = "" if relays is None else ", or start edgenode relay, or the controller with --relay"
        return warning("nodes", text, f"{_remedy(first)}{otherwise}")
    return ok("nodes", f"{seen}; all answer")


async def _error_of(targets: Sequence[str], security: Security | None) -> EdgenodeError | None:
    """Return the error of a node that answers at none of its addresses. None if it answers."""
    error: EdgenodeError = TransportError("it has no address")
    for target in targets:
        try:
            await serves(target, _DIAL_S, security)
        except EdgenodeError as exc:
            error = exc
        else:
            return None
    return error


def _remedy(error: EdgenodeError) -> str:
    if isinstance(error, ClockError) or COMPARE_CLOCKS in str(error):
        return "compare the clocks of both devices"
    return "start it, or open its port in the firewall of its device"
