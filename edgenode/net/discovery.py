"""Nodes and the controller find each other by mDNS. A finding is a hint, and the handshake decides.

A ``Service`` from the network can be stale, wrong or forged. At worst it costs one failed dial. Nothing here dials,
compares protocol versions or trusts a fingerprint. In networks without multicast, ``--peers`` replaces mDNS.

Facts about the zeroconf library, measured with 0.154, that shaped this module:

- Its own probe for a free name takes 1.2 s, and refuses a device that has just restarted. ``announce`` has a probe of
  its own, which takes 0.25 s. Anybody can answer it, so the holder of the name is asked.
- Its browser keeps an entry for each name that anybody announces, and repeats all names in its questions. So the
  questions here are sent without it.
- All processes of one machine share 127.0.0.1:5353, and the kernel gives a unicast answer to any one of them. So one
  question asks for multicast answers.
- A responder must wait a second before it multicasts the same answer again. So a second instance sends each question
  from a port of its own. It is answered at once, and to this process alone (RFC 6762, section 6.7).
- zeroconf drops a packet that equals one of the last 0.8 s, from any process, unless it asks for a unicast answer.
- Its cache keeps old data of a restarted service, and grows with what anybody sends. So answers are kept from it
  (``mdns_gate``), and services are read from packets (``mdns_listener``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Self, TypeVar, cast

import structlog
from zeroconf import (  # type: ignore[attr-defined]  # there, and documented
    DNSOutgoing,
    DNSQuestion,
    Error,
    ServiceInfo,
    Zeroconf,
)
from zeroconf.asyncio import AsyncZeroconf

from edgenode.errors import ConfigError, LocalProtocolError, TransportError, in_words
from edgenode.net.interfaces import LOOPBACK, check_interfaces, network_addresses, parse_ip
from edgenode.net.limited_log import limited
from edgenode.net.mdns_gate import Budget, MdnsGate
from edgenode.net.mdns_listener import MdnsListener
from edgenode.net.mdns_service import SERVICE_TYPES, Kind, Service, service_to_info

_QUERY, _PTR, _IN = 0, 12, 1
_ASK_AGAIN_S, _ASK_SELDOM_S = 1.0, 3600.0  # the shortest and the longest interval of RFC 6762, section 5.2
_PROBES = 2
_PROBE_INTERVAL_S = 0.125
_OTHERS_ANSWER_S = 0.3  # after the first answer. Responders wait up to 0.12 s at random

log = structlog.get_logger()

T = TypeVar("T")
Holds = Callable[[Service, bool], Awaitable[bool]]
"""Returns whether a process that claims a name holds it. The second argument: this machine itself says so."""


class Discovery:
    """Announces this process on the local network, and knows the other services of its cluster.

    An async context manager. Entering it opens the sockets and starts the search. Leaving it sends goodbyes (0.25 s)
    and closes the sockets.

    Args:
        cluster: "" to look at every cluster, and announce nothing.
        interfaces: IP addresses of this machine. Empty for every interface that is up except loopback, with IPv4 and
            IPv6, or for loopback if there is no other.

    Attributes:
        interfaces: IP addresses of the interfaces in use.

    Raises:
        ConfigError: on entering, this machine does not have one of the addresses.
        TransportError: on entering, multicast cannot be used.
    """

    def __init__(self, cluster: str, interfaces: Sequence[str] = ()) -> None:
        self.cluster = cluster
        self.interfaces = tuple(interfaces) or network_addresses() or (LOOPBACK,)
        self._own = frozenset((*self.interfaces, *network_addresses(), LOOPBACK))
        self._listener = MdnsListener(cluster)
        self._announced: dict[str, ServiceInfo] = {}
        self._zeroconf: AsyncZeroconf | None = None
        self._asker: AsyncZeroconf | None = None  # sends questions from a port of its own
        self._asking: asyncio.Task[None] | None = None
        self._waits = asyncio.Event()  # set when something is looked for that may be there already

    async def __aenter__(self) -> Self:
        check_interfaces(self.interfaces)
        try:
            with self._translated("open mDNS"):
                self._zeroconf = AsyncZeroconf(interfaces=list(self.interfaces))
                self._asker = AsyncZeroconf(interfaces=list(self.interfaces), unicast=True)
                await self._guard(self._zeroconf.zeroconf, self._asker.zeroconf)
                asking = self._ask(self._zeroconf.zeroconf, self._asker.zeroconf)
                self._asking = asyncio.create_task(asking, name="mDNS questions")
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def announce(self, service: Service, holds: Holds | None = None) -> None:
        """Announce a service three times: the first time after 0.25 s, the last after 0.7 s.

        An announcement of the same kind and name replaces the former one at once. A service without addresses is
        announced at those of the interfaces. Two processes that announce one name within 0.25 s both succeed, and the
        handshake refuses the second.

        Args:
            holds: asked about each service that claims the name.

        Raises:
            ConfigError: another process holds the name. The error contains both addresses. Or the service cannot be
                announced as it is.
        """
        if service.cluster != self.cluster:
            raise LocalProtocolError(f"cannot announce {service.cluster!r} in discovery of {self.cluster!r}")
        info = service_to_info(service, _dialable(service.addresses or self.interfaces))
        zeroconf, asker = self._open()
        with self._translated(f"announce {service.kind} {service.name!r}"):
            if info.name in self._announced:
                repeats = await zeroconf.async_update_service(info)
            else:
                await self._probe(asker.zeroconf, info, service, holds)
                repeats = await zeroconf.async_register_service(info, cooperating_responders=True)
                self._announced[info.name] = info
            await repeats

    def services(self, kind: Kind) -> dict[str, Service]:
        """The services of this cluster by name, sorted, those of this process included.

        A service that has ended stays. Its presence proves nothing.
        """
        return self._listener.services(kind, self.cluster)

    def targets(self, kind: Kind, name: str) -> tuple[str, ...]:
        """host:port of a service of this cluster, the newest first. From now on, it is looked for."""
        claims = self._listener.seek(kind, self.cluster, name)
        if not claims:
            self._waits.set()
        return tuple(dict.fromkeys(target for service in reversed(claims.values()) for target in service.targets))

    def other_clusters(self, kind: Kind) -> list[str]:
        """The other clusters that have announced such a service."""
        return sorted(self._listener.clusters(kind) - {self.cluster})

    async def wait_for_clusters(self, kind: Kind, *, timeout_s: float | None) -> list[str]:
        """Wait for such a service of any cluster. Return the clusters that have one by then, sorted.

        Raises:
            TransportError: there is none after ``timeout_s``. None is no limit.
        """
        await self._found(lambda: self._listener.clusters(kind), kind, None, timeout_s)
        await asyncio.sleep(_OTHERS_ANSWER_S)
        return sorted(self._listener.clusters(kind))

    async def wait(self, kind: Kind, name: str | None = None, *, timeout_s: float | None) -> Service:
        """Wait for the service of that name. Without a name, for the first by name.

        Raises:
            TransportError: there is none after ``timeout_s``. The error contains what was searched, and where. None is
                no limit.
        """
        return await self._found(lambda: self._first(kind, name), kind, name, timeout_s)

    async def _found(self, look: Callable[[], T | None], kind: Kind, name: str | None, timeout_s: float | None) -> T:
        self._waits.set()
        try:
            async with asyncio.timeout(timeout_s):
                while not (found := look()):
                    await self._listener.changed.wait()
                return found
        except TimeoutError as exc:
            raise TransportError(self.not_found(kind, name, timeout_s)) from exc

    async def watch(self, kind: Kind, cluster: str = "") -> AsyncIterator[dict[str, Service]]:
        """``services(kind)``, now and after each change, without end. Changes between two reads count as one.

        Args:
            cluster: another one than that of this discovery.
        """
        async for services in self._watch(lambda: self._listener.services(kind, cluster or self.cluster)):
            yield services

    async def watch_targets(self, kind: Kind, cluster: str = "") -> AsyncIterator[tuple[str, ...]]:
        """host:port of every such service, in the words of each source, now and after each change, without end.

        Args:
            cluster: another one than that of this discovery.
        """
        async for targets in self._watch(lambda: self._listener.targets(kind, cluster or self.cluster)):
            yield targets

    async def _watch(self, look: Callable[[], T]) -> AsyncIterator[T]:
        self._waits.set()
        seen: T | None = None
        while True:
            changed = self._listener.changed
            found = look()
            if found != seen:
                seen = found
                yield found
            else:
                await changed.wait()

    def wanted(self, kind: Kind) -> str:
        """Say what ``wait`` looks for, and where."""
        of = f" of cluster {self.cluster!r}" if self.cluster else ""
        return f"a {kind}{of} by mDNS on {', '.join(self.interfaces)}"

    def not_found(self, kind: Kind, name: str | None, timeout_s: float | None) -> str:
        """An error text: what was searched, where and for how long, and what was found instead."""
        wanted = kind if name is None else f"{kind} {name!r}"
        of = f" of cluster {self.cluster!r}" if self.cluster else ""
        text = (
            f"no {wanted}{of} found in {timeout_s:g} s: searched for "
            f"{SERVICE_TYPES[kind]} by mDNS on {', '.join(self.interfaces)}"
        )
        if known := self.services(kind):
            text += f"; found {', '.join(known)}"
        if others := self.other_clusters(kind):
            text += f"; saw other clusters: {', '.join(others)}"
        return text

    async def _guard(self, *instances: Zeroconf) -> None:
        """Put a gate in front of every socket, all with one budget."""
        budget = Budget()
        for zeroconf in instances:
            await zeroconf.async_wait_for_start()
            if not zeroconf.engine.senders:
                raise TransportError(f"no interface supports multicast: {', '.join(self.interfaces)}")
            for protocol in zeroconf.engine.protocols:
                assert protocol.transport is not None
                behind = cast(asyncio.DatagramProtocol, protocol)  # it has its methods
                gate = MdnsGate(behind, self._own, budget, self._listener.received, self._packet_dropped)
                protocol.transport.transport.set_protocol(gate)

    def _packet_dropped(self, source: str) -> None:
        if self._announced:  # otherwise a command uses it, which logs nothing
            limited(log.warning, "too many mDNS packets: some are dropped", "", "", address=source)

    async def _ask(self, zeroconf: Zeroconf, asker: Zeroconf) -> None:
        """Ask for all services: after 0, 1, 3, 7 seconds and so on. Begin again when something is looked for."""
        interval_s = _ASK_AGAIN_S
        while True:
            self._waits.clear()
            zeroconf.async_send(_question(unicast=False))
            asker.async_send(_question(unicast=True))
            await asyncio.sleep(_ASK_AGAIN_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s - _ASK_AGAIN_S):
                    await self._waits.wait()
            interval_s = _ASK_AGAIN_S if self._waits.is_set() else min(2 * interval_s, _ASK_SELDOM_S)

    async def _close(self) -> None:
        instances = [instance for instance in (self._asker, self._zeroconf) if instance is not None]
        self._asker = self._zeroconf = None
        if self._asking is not None:
            self._asking.cancel()
        try:
            for instance in instances:
                await instance.async_close()
        finally:
            # A cancellation during the goodbyes must not leave the sockets open.
            for instance in instances:
                if not instance.zeroconf.done:
                    instance.zeroconf.close()

    async def _probe(self, asker: Zeroconf, info: ServiceInfo, service: Service, holds: Holds | None) -> None:
        """Ask for the name and wait 0.25 s for answers. Raises ConfigError if there is another holder."""
        claims = self._listener.seek(service.kind, service.cluster, service.name)
        claims.clear()
        for _ in range(_PROBES):
            asker.async_send(asker.generate_service_query(info))
            await asyncio.sleep(_PROBE_INTERVAL_S)
        for source, holder in [*claims.items()]:
            if holds is not None and await holds(holder, source in self._own):
                this = replace(service, addresses=tuple(info.parsed_addresses()))
                raise ConfigError(
                    f"{service.kind} name {service.name!r} of cluster {self.cluster!r} is held by "
                    f"{', '.join(holder.targets)}; this one is at {', '.join(this.targets)}: "
                    "stop one of them, or choose another name"
                )

    def _first(self, kind: Kind, name: str | None) -> Service | None:
        services = self.services(kind)
        return next(iter(services.values()), None) if name is None else services.get(name)

    def _open(self) -> tuple[AsyncZeroconf, AsyncZeroconf]:
        if self._zeroconf is None or self._asker is None:
            raise LocalProtocolError("discovery is used outside of its context")
        return self._zeroconf, self._asker

    @contextmanager
    def _translated(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except (Error, OSError) as exc:
            where = ", ".join(self.interfaces)
            raise TransportError(f"cannot {purpose} on {where}: {in_words(exc)}") from exc


def _question(*, unicast: bool) -> DNSOutgoing:
    """Ask for every service of edgenode.

    Args:
        unicast: the answers need not reach others.
    """
    out = DNSOutgoing(_QUERY)
    for service_type in SERVICE_TYPES.values():
        question = DNSQuestion(service_type, _PTR, _IN)
        question.unicast = unicast
        out.add_question(question)
    return out


def _dialable(addresses: Sequence[str]) -> tuple[str, ...]:
    """The addresses without loopback, on which another device would dial itself. Loopback if there is nothing else."""
    parsed = {address: parse_ip(address, "address to announce") for address in addresses}
    if wildcards := [address for address, ip in parsed.items() if ip.is_unspecified]:
        raise ConfigError(f"{wildcards[0]} is an address to listen on, not to dial: it cannot be announced")
    return tuple(address for address, ip in parsed.items() if not ip.is_loopback) or tuple(addresses)
