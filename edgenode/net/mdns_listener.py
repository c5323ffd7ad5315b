"""The announced services, as mDNS packets describe them.

zeroconf's cache keeps the old port and addresses of a restarted service for a second next to the new ones, and reports
no change when they expire (measured with 0.154). A service is therefore read from the newest packet that describes it
completely, and never from the cache.

Anybody can announce services, under any name. So:

1. Each packet costs the same, and what is kept is bounded: `_MOST` names, where a new one takes the place of the one
   whose last packet is the oldest.
2. A name that this process looks for keeps its place. Of other clusters, only their names are kept.
3. A name keeps what each of the last `_MOST_SOURCES` sources says about it. An impostor does not hide the true one.
4. A goodbye changes nothing. Whoever follows an old description fails at a dial.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from operator import attrgetter

from zeroconf import (  # type: ignore[attr-defined]  # there, and documented
    BadTypeInNameException,
    DNSAddress,
    DNSIncoming,
    DNSRecord,
    DNSService,
    DNSText,
    ServiceInfo,
)

from edgenode.net.interfaces import network_interfaces
from edgenode.net.mdns_service import KINDS, Kind, Service, service_from_info

_MOST = 256
_MOST_SOURCES = 4
_MOST_CLUSTERS = 16

Key = tuple[Kind, str, str]
"""The kind, cluster and name of a service."""
Claims = dict[str, Service]
"""What each source says about one service, the newest last."""


class MdnsListener:
    """Keeps the services of one cluster.

    Args:
        cluster: "" to keep those of every cluster.

    Attributes:
        changed: set once, and then replaced, at every change.
    """

    def __init__(self, cluster: str = "") -> None:
        self.changed = asyncio.Event()
        self._cluster = cluster
        self._own = network_interfaces()
        self._sought: dict[Key, Claims] = {}
        self._others: dict[Key, Claims] = {}  # the one with the oldest packet first
        self._other_clusters: dict[tuple[Kind, str], None] = {}

    def services(self, kind: Kind, cluster: str) -> dict[str, Service]:
        """The services of one cluster by name, sorted. Each as the newest packet describes it."""
        found = [claims for key, claims in self._all() if key[:2] == (kind, cluster)]
        newest = sorted((next(reversed(claims.values())) for claims in found), key=attrgetter("name"))
        return {service.name: service for service in newest}

    def targets(self, kind: Kind, cluster: str) -> tuple[str, ...]:
        """host:port of every service of one cluster, in the words of each source."""
        found = [claims for key, claims in self._all() if key[:2] == (kind, cluster)]
        return tuple(dict.fromkeys(target for claims in found for s in claims.values() for target in s.targets))

    def seek(self, kind: Kind, cluster: str, name: str) -> Claims:
        """What each source says about a service, the newest last. From now on, the service is not forgotten."""
        key = kind, cluster, name
        if key not in self._sought:
            self._sought[key] = self._others.pop(key, {})
        return self._sought[key]

    def clusters(self, kind: Kind) -> set[str]:
        """The clusters that have such a service."""
        kept = {key[1] for key, _ in self._all() if key[0] == kind}
        return kept | {cluster for of, cluster in self._other_clusters if of == kind}

    def received(self, packet: bytes, source: str) -> None:
        """Take a packet with answers, from the address ``source``."""
        for service in self._described(packet):
            if self._cluster in ("", service.cluster):
                self._claim(service, source)
            else:
                self._note_cluster(service.kind, service.cluster)

    def _all(self) -> Iterator[tuple[Key, Claims]]:
        """The names that were described, and what is said about them."""
        for kept in (self._sought, self._others):
            yield from ((key, claims) for key, claims in kept.items() if claims)

    def _described(self, packet: bytes) -> Iterator[Service]:
        """The services that a packet describes completely, in records of the instance's own name, in any order."""
        records: dict[str, list[DNSRecord]] = {}
        for record in DNSIncoming(packet).answers():
            if record.ttl:
                records.setdefault(record.name, []).append(record)
        for instance, those in records.items():
            info = _as_info(instance, those)
            if info is not None and (service := service_from_info(info, self._own)) is not None:
                yield service

    def _claim(self, service: Service, source: str) -> None:
        key = service.kind, service.cluster, service.name
        if (claims := self._sought.get(key)) is None:
            if (claims := self._others.pop(key, None)) is None:
                claims = {}
                if len(self._others) >= _MOST:
                    del self._others[next(iter(self._others))]
            self._others[key] = claims
        before = claims.pop(source, None)
        if before is None and len(claims) >= _MOST_SOURCES:
            del claims[next(iter(claims))]
        claims[source] = service
        if before != service:
            self._notify()

    def _note_cluster(self, kind: Kind, cluster: str) -> None:
        if (kind, cluster) not in self._other_clusters:
            if len(self._other_clusters) >= _MOST_CLUSTERS:
                del self._other_clusters[next(iter(self._other_clusters))]
            self._other_clusters[kind, cluster] = None
            self._notify()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def _as_info(instance: str, records: list[DNSRecord]) -> ServiceInfo | None:
    """The records of one name as zeroconf's description of a service, or None if one of them is missing."""
    port = next((record.port for record in records if isinstance(record, DNSService)), None)
    text = next((record.text for record in records if isinstance(record, DNSText)), None)
    addresses = [record.address for record in records if isinstance(record, DNSAddress)]
    service_type = instance.partition(".")[2]
    if port is None or text is None or not addresses or service_type not in KINDS:
        return None
    with suppress(BadTypeInNameException):  # a packet may name anything
        return ServiceInfo(service_type, instance, port, properties=text, server=instance, addresses=addresses)
    return None
