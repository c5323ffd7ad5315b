"""The present set of announced services, as mDNS packets describe them.

zeroconf's cache keeps the old port and addresses of a restarted service for a second next to the new ones, and reports
no change when they expire (measured with 0.154). A service is therefore read from the newest packet that describes it
completely, and never from the cache.

Anybody can announce services. There is room for _MOST of them, and a new one takes the place of the one whose last
packet is the oldest. A true one is described again whenever somebody asks.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf

import structlog
from zeroconf import (
    BadTypeInNameException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    ServiceStateChange,
    Zeroconf,
    current_time_millis,
)

from edgenode.net.interfaces import network_interfaces
from edgenode.net.mdns_service import KINDS, Kind, Service, service_from_info

_DNS_SRV = 33  # the record type of which every description of a service has exactly one
_LATELY_MS = 1000
_MOST = 4096

log = structlog.get_logger()


class MdnsListener(RecordUpdateListener):
    """Keeps the services of every cluster.

    Attributes:
        changed: set once, and then replaced, at every change.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._own = network_interfaces()
        self._services: dict[str, Service] = {}  # by DNS instance name, in lower case
        self._received_ms: dict[str, float] = {}
        self._was_full = False

    def services(self, kind: Kind, cluster: str) -> dict[str, Service]:
        """The services of one cluster by name, sorted."""
        those = (s for s in self._services.values() if (s.kind, s.cluster) == (kind, cluster))
        return {service.name: service for service in sorted(those, key=lambda s: s.name)}

    def clusters(self, kind: Kind) -> set[str]:
        """The clusters that have such a service."""
        return {service.cluster for service in self._services.values() if service.kind == kind}

    def received_lately(self, instance: str) -> Service | None:
        """The service of a DNS instance name, if a packet described it within the last second.

        zeroconf drops a packet that equals one of the last 0.8 s. The answer to a probe can be such a packet.
        """
        received_ms = self._received_ms.get(instance.lower(), -inf)
        return self._services[instance.lower()] if current_time_millis() - received_ms < _LATELY_MS else None

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf with all records of one packet."""
        for name in {update.new.name for update in records if update.new.type == _DNS_SRV}:
            service_type = name.partition(".")[2]
            if service_type in KINDS:
                # With the host named like the instance, as in every announcement, the order of records is irrelevant.
                service = None
                with suppress(BadTypeInNameException):  # a packet may name anything
                    info = ServiceInfo(service_type, name, server=name)
                    info.async_update_records(zc, now, records)
                    service = service_from_info(info, self._own)
                if service is not None:
                    self._update(name.lower(), service, now)

    def state_changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Called by zeroconf's browser. Only a removal is news: a goodbye, or 75 minutes without a packet."""
        if state_change is ServiceStateChange.Removed and name.lower() in self._services:
            del self._services[name.lower()], self._received_ms[name.lower()]
            self._notify()

    def _update(self, key: str, service: Service, now_ms: float) -> None:
        if key not in self._services and len(self._services) >= _MOST:
            self._make_room()
        self._received_ms[key] = now_ms
        if self._services.get(key) != service:
            self._services[key] = service
            self._notify()

    def _make_room(self) -> None:
        if not self._was_full:
            log.warning("too many services are announced by mDNS: new ones replace old ones", most=_MOST)
            self._was_full = True
        oldest = min(self._received_ms, key=self._received_ms.__getitem__)
        del self._services[oldest], self._received_ms[oldest]

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()
