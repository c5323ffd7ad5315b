"""Nodes and the controller find each other by mDNS: a hint, never an authority; the handshake decides.

A `Service` read from the network may be stale, wrong or forged, and costs at worst one failed dial. Nothing
here dials, compares protocol versions or trusts a fingerprint. Where multicast does not pass, `--peers` does.

Facts of the zeroconf library that shaped this file, measured with 0.154:

- Its own probing for a free name takes 1.2 s and also refuses a device that has just restarted. `announce`
  probes by itself, for 0.25 s, and only another device that answers is a conflict.
- Its browser first asks for unicast answers. On one machine all processes share 127.0.0.1:5353 and the
  kernel hands such an answer to any one of them, so we ask for multicast answers. Those it holds back for a
  second after the last one, as it must; so the first questions also go out from a port of our own,
  which is answered at once and to us (RFC 6762 section 6.7).
- Its cache keeps a restarted service's old port and addresses for a second beside the new ones and reports no
  change when they expire. So a service is read from the newest packet that describes it in full, not
  from the cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import ifaddr
from zeroconf import (
    DNSQuestionType,
    Error,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
    current_time_millis,
)
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from edgenode.errors import ConfigError, LocalProtocolError, TransportError

Kind = Literal["node", "controller"]

SERVICE_TYPES: dict[Kind, str] = {
    "node": "_edgenode._tcp.local.",
    "controller": "_edgenode-ctl._tcp.local.",
}
LOOPBACK = "127.0.0.1"

_KINDS: dict[str, Kind] = {service_type: kind for kind, service_type in SERVICE_TYPES.items()}
_DNS_SRV = 33  # the record type every description of a service holds exactly once
_LABEL_BYTES = 63  # one DNS label, RFC 1035 section 2.3.4
_NAME_BYTES = 200  # a TXT entry "cluster=..." may hold 255 bytes
_PROBES = 2
_PROBE_INTERVAL_S = 0.125
_IFF_UP = 1


@dataclass(frozen=True, slots=True)
class Service:
    """One announced process: where it says it listens, and nothing that was verified."""

    kind: Kind
    cluster: str
    name: str
    addresses: tuple[str, ...]
    port: int
    protocol: int

    @property
    def targets(self) -> tuple[str, ...]:
        """What to dial, as "host:port" in the order to try; an IPv6 host stands in brackets."""
        return tuple(f"[{a}]:{self.port}" if ":" in a else f"{a}:{self.port}" for a in self.addresses)


def interfaces_for(listen_host: str) -> tuple[str, ...]:
    """IP addresses of the interfaces on which to discover, for a process that listens on `listen_host`.

    A loopback host stays on loopback; "" and the wildcard mean every IPv4 interface that is up, loopback
    included; an address means itself. Raises ConfigError for a host name.
    """
    if listen_host in ("", "0.0.0.0", "::"):
        return (*_network_addresses(), LOOPBACK)
    if listen_host == "localhost" or _parsed(listen_host, "listen host").is_loopback:
        return (LOOPBACK,)
    return (listen_host,)


def instance_label(cluster: str, name: str) -> str:
    """The DNS label, at most 63 bytes, under which `name` of `cluster` is announced: unique to the pair.

    DNS ignores case and splits at dots, so a name that is not plain lower case is made so and told from
    its like by a hash. "@" and "~" cannot come from a name, so no plain label looks like a hashed one.
    """
    plain = f"{_slug(name)}@{_slug(cluster)}"
    if plain == f"{name}@{cluster}" and len(plain) <= _LABEL_BYTES:
        return plain
    digest = hashlib.sha256(f"{len(name)}:{name}{cluster}".encode()).hexdigest()[:16]
    return f"{plain[: _LABEL_BYTES - len(digest) - 1]}~{digest}"


class Discovery:
    """Announces this process on the local network and keeps the picture of the others of its cluster.

    An async context manager: entering opens the sockets and starts to search, leaving says goodbye
    (0.25 s) and closes all. `interfaces` holds IP addresses of this machine; empty means every IPv4 interface
    that is up except loopback, or loopback where there is no other. Entering raises ConfigError for
    an address this machine does not have, TransportError when multicast cannot be used.
    """

    def __init__(self, cluster: str, interfaces: Sequence[str] = ()) -> None:
        self.cluster = cluster
        self._interfaces = tuple(interfaces) or _network_addresses() or (LOOPBACK,)
        self._picture = _Picture(cluster)
        self._announced: dict[str, ServiceInfo] = {}
        self._zeroconf: AsyncZeroconf | None = None
        self._seeker: AsyncZeroconf | None = None
        self._browsers: list[AsyncServiceBrowser] = []

    @property
    def interfaces(self) -> tuple[str, ...]:
        """IP addresses of the interfaces on which we announce and search."""
        return self._interfaces

    async def __aenter__(self) -> Self:
        _refuse_foreign(self._interfaces)
        try:
            with self._translated("open mDNS"):
                self._zeroconf = AsyncZeroconf(interfaces=list(self._interfaces))
                self._seeker = AsyncZeroconf(interfaces=list(self._interfaces), unicast=True)
                await self._browse(self._zeroconf.zeroconf, self._picture.state_changed, DNSQuestionType.QM)
                # QU: a question equal to one of the last 0.8 s, from whomever, is dropped unless it is QU.
                await self._browse(self._seeker.zeroconf, _heard_elsewhere, DNSQuestionType.QU)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def announce(self, service: Service, is_alive: Callable[[Service], Awaitable[bool]] | None = None) -> None:
        """Tell the network about `service`, three times: the first after 0.25 s, done after 0.7 s.

        The same kind and name again replaces what was announced, at once. No addresses means those of
        the interfaces. Raises ConfigError when another holds the name, and names both addresses: another
        device, or a process of this one that ``is_alive`` finds alive; else it is our own former life. Two
        that start in the same quarter of a second both pass: the handshake refuses the second.
        """
        if service.cluster != self.cluster:
            raise LocalProtocolError(f"cannot announce {service.cluster!r} in discovery of {self.cluster!r}")
        info = _described(service, _dialable(service.addresses or self._interfaces))
        zeroconf, seeker = self._open()
        with self._translated(f"announce {service.kind} {service.name!r}"):
            if info.name in self._announced:
                told = await zeroconf.async_update_service(info)
            else:
                await self._probe(seeker.zeroconf, info, service, is_alive or _never)
                told = await zeroconf.async_register_service(info, cooperating_responders=True)
                self._announced[info.name] = info
            await told

    async def withdraw(self) -> None:
        """Say goodbye (0.25 s) for all that was announced; harmless when nothing was."""
        zeroconf, _ = self._open()
        with self._translated("withdraw"):
            while self._announced:
                _, info = self._announced.popitem()
                await (await zeroconf.async_unregister_service(info))

    def services(self, kind: Kind) -> dict[str, Service]:
        """The present picture by name, sorted, what we announce ourselves included once it was heard.

        A service that ended without a goodbye stays (75 minutes): try to dial, do not conclude.
        """
        return self._picture.services(kind)

    def other_clusters(self, kind: Kind) -> list[str]:
        """Names of the clusters beside ours of which such a service is announced."""
        return self._picture.other_clusters(kind)

    async def wait(self, kind: Kind, name: str | None = None, *, timeout_s: float) -> Service:
        """The service of that name, or the first by name if none is given, as soon as it is known.

        Raises TransportError after `timeout_s`, with what was searched and where.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (service := self._first(kind, name)) is None:
                    await self._picture.changed.wait()
                return service
        except TimeoutError as exc:
            raise TransportError(self.not_found(kind, name, timeout_s)) from exc

    async def watch(self, kind: Kind) -> AsyncIterator[dict[str, Service]]:
        """The picture of `services(kind)`, now and again after each change; never ends.

        Changes that come while the reader is busy are seen as one.
        """
        seen: dict[str, Service] | None = None
        while True:
            changed = self._picture.changed
            services = self.services(kind)
            if services != seen:
                seen = services
                yield dict(services)
            else:
                await changed.wait()

    def not_found(self, kind: Kind, name: str | None, timeout_s: float) -> str:
        """In words: what was searched, where, for how long, and what was there instead."""
        wanted = kind if name is None else f"{kind} {name!r}"
        text = (
            f"no {wanted} of cluster {self.cluster!r} found in {timeout_s:g} s: searched for "
            f"{SERVICE_TYPES[kind]} by mDNS on {', '.join(self._interfaces)}"
        )
        if known := self.services(kind):
            text += f"; found {', '.join(known)}"
        if others := self.other_clusters(kind):
            text += f"; saw other clusters: {', '.join(others)}"
        return text

    async def _browse(self, zeroconf: Zeroconf, handler: Callable[..., None], ask: DNSQuestionType) -> None:
        await zeroconf.async_wait_for_start()
        if not zeroconf.engine.senders:
            raise TransportError(f"no interface takes part in multicast: {', '.join(self._interfaces)}")
        zeroconf.async_add_listener(self._picture, None)
        types = list(SERVICE_TYPES.values())
        browser = AsyncServiceBrowser(zeroconf, types, [handler], question_type=ask)
        self._browsers.append(browser)

    async def _close(self) -> None:
        instances = [instance for instance in (self._seeker, self._zeroconf) if instance is not None]
        self._seeker = self._zeroconf = None
        try:
            while self._browsers:
                await self._browsers.pop().async_cancel()
            for instance in instances:
                await instance.async_close()
        finally:
            # Cancelled amid the goodbyes: the sockets must close all the same.
            for instance in instances:
                if not instance.zeroconf.done:
                    instance.zeroconf.close()

    async def _probe(
        self, seeker: Zeroconf, info: ServiceInfo, service: Service, is_alive: Callable[[Service], Awaitable[bool]]
    ) -> None:
        """Ask for the name and listen for 0.25 s; raise ConfigError if another holds it."""
        await self._refuse_held(service, info, self._picture.heard_lately(info.name), is_alive)
        holder = ServiceInfo(info.type, info.name, server=info.name)
        seeker.async_add_listener(holder, None)
        try:
            for _ in range(_PROBES):
                seeker.async_send(seeker.generate_service_query(info))
                await _until_answered(holder)
        finally:
            seeker.async_remove_listener(holder)
        await self._refuse_held(service, info, _read(holder, ()), is_alive)

    async def _refuse_held(
        self,
        service: Service,
        info: ServiceInfo,
        holder: Service | None,
        is_alive: Callable[[Service], Awaitable[bool]],
    ) -> None:
        if holder is None:
            return
        ours = info.parsed_addresses()
        if not {*holder.addresses} & {*ours, *_network_addresses()} or await is_alive(holder):
            this = replace(service, addresses=tuple(ours))
            raise ConfigError(
                f"{service.kind} name {service.name!r} of cluster {self.cluster!r} is held by "
                f"{', '.join(holder.targets)}; this one is at {', '.join(this.targets)}: "
                "stop one of them, or choose another name"
            )

    def _first(self, kind: Kind, name: str | None) -> Service | None:
        services = self.services(kind)
        return next(iter(services.values()), None) if name is None else services.get(name)

    def _open(self) -> tuple[AsyncZeroconf, AsyncZeroconf]:
        if self._zeroconf is None or self._seeker is None:
            raise LocalProtocolError("discovery is used outside of its context")
        return self._zeroconf, self._seeker

    @contextmanager
    def _translated(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except (Error, OSError) as exc:
            reason = str(exc) or type(exc).__name__
            where = ", ".join(self._interfaces)
            raise TransportError(f"cannot {purpose} on {where}: {reason}") from exc


class _Picture(RecordUpdateListener):
    """What the newest packets said, by DNS instance name; every cluster is kept, one is shown."""

    def __init__(self, cluster: str) -> None:
        self.changed = asyncio.Event()  # set once, then replaced, at every change
        self._cluster = cluster
        self._own_addresses = _network_addresses()
        self._services: dict[str, Service] = {}
        self._heard_ms: dict[str, float] = {}

    def services(self, kind: Kind) -> dict[str, Service]:
        ours = (s for s in self._services.values() if (s.kind, s.cluster) == (kind, self._cluster))
        return {service.name: service for service in sorted(ours, key=lambda s: s.name)}

    def other_clusters(self, kind: Kind) -> list[str]:
        return sorted({s.cluster for s in self._services.values() if s.kind == kind} - {self._cluster})

    def heard_lately(self, instance: str) -> Service | None:
        """The service if a packet told of it within the last second.

        zeroconf drops a packet equal to one of the last 0.8 s unread: the answer to a probe may be one.
        """
        heard_ms = self._heard_ms.get(instance.lower(), -inf)
        return self._services[instance.lower()] if current_time_millis() - heard_ms < 1000 else None

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf with all records of one packet."""
        for name in {update.new.name for update in records if update.new.type == _DNS_SRV}:
            service_type = name.partition(".")[2]
            if service_type in _KINDS:
                # What we announce names its host like the instance, so the order of records is no matter.
                info = ServiceInfo(service_type, name, server=name)
                info.async_update_records(zc, now, records)
                if service := _read(info, self._own_addresses):
                    self._learn(name.lower(), service, now)

    def state_changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Called by the browser; only a goodbye (or 75 silent minutes) tells something new."""
        if state_change is ServiceStateChange.Removed and name.lower() in self._services:
            del self._services[name.lower()], self._heard_ms[name.lower()]
            self._notify()

    def _learn(self, key: str, service: Service, now_ms: float) -> None:
        self._heard_ms[key] = now_ms
        if self._services.get(key) != service:
            self._services[key] = service
            self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


async def _never(holder: Service) -> bool:
    """A service of this device that holds our name is our own former life."""
    return False


def _heard_elsewhere(**change: object) -> None:
    """The seeker's browser only asks; what comes and goes the picture hears itself."""


async def _until_answered(holder: ServiceInfo) -> None:
    """Return when `holder` is known or after one probe interval."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PROBE_INTERVAL_S
    while not holder.parsed_addresses() and (left_s := deadline - loop.time()) > 0:
        await holder.async_wait(left_s * 1000, loop)


def _read(info: ServiceInfo, own_addresses: Sequence[str]) -> Service | None:
    """What one packet says, or None when it is not the whole or not sane."""
    text = info.decoded_properties
    addresses, cluster, name = info.parsed_addresses(), text.get("cluster"), text.get("node")
    protocol = text.get("protocol") or ""
    if not (addresses and info.port and cluster and name and protocol.isascii() and protocol.isdigit()):
        return None
    # Addresses that are also ours come last: every Docker host has its own 172.17.0.1.
    addresses.sort(key=lambda address: (address in own_addresses, address))
    return Service(_KINDS[info.type], cluster, name, tuple(addresses), info.port, int(protocol[:9]))


def _described(service: Service, addresses: Sequence[str]) -> ServiceInfo:
    for key, value in (("cluster", service.cluster), ("name", service.name)):
        if not 0 < len(value.encode()) <= _NAME_BYTES:
            raise ConfigError(f"{key} {value!r} must have 1 to {_NAME_BYTES} bytes to be announced")
    service_type = SERVICE_TYPES[service.kind]
    name = f"{instance_label(service.cluster, service.name)}.{service_type}"
    text = {
        "node": service.name,
        "cluster": service.cluster,
        "protocol": str(service.protocol),
        "fingerprint": "",  # reserved for the certificate
    }
    return ServiceInfo(service_type, name, service.port, properties=text, server=name, parsed_addresses=list(addresses))


def _dialable(addresses: Sequence[str]) -> tuple[str, ...]:
    """Loopback only where there is nothing else: another device would dial itself."""
    parsed = {address: _parsed(address, "address to announce") for address in addresses}
    if wildcards := [address for address, ip in parsed.items() if ip.is_unspecified]:
        raise ConfigError(f"{wildcards[0]} says where to listen, not where to dial: it cannot be announced")
    return tuple(address for address, ip in parsed.items() if not ip.is_loopback) or tuple(addresses)


def _refuse_foreign(interfaces: Sequence[str]) -> None:
    known = {_bare(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips}
    for address in interfaces:
        if not _parsed(address, "interface").is_loopback and address not in known:
            raise ConfigError(f"no interface has the address {address}: choose of {', '.join(sorted(known))}")


def _network_addresses() -> tuple[str, ...]:
    """IPv4 addresses of the interfaces that are up, loopback excluded, in the system's order."""
    return tuple(
        ip.ip
        for adapter in ifaddr.get_adapters()
        if _is_up(adapter.name)
        for ip in adapter.ips
        if isinstance(ip.ip, str) and not ip_address(ip.ip).is_loopback
    )


def _is_up(interface: str) -> bool:
    """False only where the system says so: ifaddr also lists interfaces that are down."""
    try:
        return bool(int(Path(f"/sys/class/net/{interface}/flags").read_text(), 16) & _IFF_UP)
    except (OSError, ValueError):
        return True


def _bare(address: str | tuple[str, int, int]) -> str:
    return address if isinstance(address, str) else address[0]


def _parsed(address: str, what: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(address)
    except ValueError as exc:
        raise ConfigError(f"{what} {address!r} is not an IP address") from exc


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", text.lower())
