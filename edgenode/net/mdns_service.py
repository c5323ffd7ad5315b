"""An announced service, and its form in DNS: an instance name, addresses, a port and a TXT record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from zeroconf import ServiceInfo

from edgenode.addresses import join_address
from edgenode.names import is_name
from edgenode.net.interfaces import Interface

Kind = Literal["node", "controller"]

SERVICE_TYPES: dict[Kind, str] = {
    "node": "_edgenode._tcp.local.",
    "controller": "_edgenode-ctl._tcp.local.",
}
KINDS: dict[str, Kind] = {service_type: kind for kind, service_type in SERVICE_TYPES.items()}
_MOST_ADDRESSES = 16
_LABEL_BYTES = 63  # of one DNS label, RFC 1035 section 2.3.4


@dataclass(frozen=True, slots=True)
class Service:
    """One announced process: where it claims to listen. Nothing is verified."""

    kind: Kind
    cluster: str
    name: str
    addresses: tuple[str, ...]
    port: int
    protocol: int

    @property
    def targets(self) -> tuple[str, ...]:
        """The addresses to dial, as host:port in the order to try. IPv6 hosts are in brackets."""
        return tuple(join_address(address, self.port) for address in self.addresses)


def service_to_info(service: Service, addresses: Sequence[str]) -> ServiceInfo:
    """The form in which a service is announced at some addresses."""
    service_type = SERVICE_TYPES[service.kind]
    name = instance_name(service)
    text = {
        "node": service.name,
        "cluster": service.cluster,
        "protocol": str(service.protocol),
        "fingerprint": "",  # reserved for the certificate
    }
    return ServiceInfo(service_type, name, service.port, properties=text, server=name, parsed_addresses=list(addresses))


def service_from_info(info: ServiceInfo, own: Sequence[Interface]) -> Service | None:
    """A service from outside. None if its description is incomplete or invalid, or in the name of another service.

    Addresses in a network of this machine come first, because others need not be reachable. Addresses that this machine
    has too come last: every Docker host has its own 172.17.0.1. Of many addresses, the first _MOST_ADDRESSES count.

    Args:
        own: the addresses and networks of this machine, those that other machines use first.
    """
    text = info.decoded_properties
    addresses, cluster, name = info.parsed_addresses(), text.get("cluster") or "", text.get("node") or ""
    protocol = text.get("protocol") or ""
    if not (addresses and info.port and is_name(cluster) and is_name(name)):
        return None
    if not (protocol.isascii() and protocol.isdigit()):
        return None
    addresses.sort(key=lambda address: (*_distance(ip_address(address), own), address))
    nearest = tuple(addresses[:_MOST_ADDRESSES])
    service = Service(KINDS[info.type], cluster, name, nearest, info.port, int(protocol[:9]))
    return service if info.name.lower() == instance_name(service) else None


def _distance(address: IPv4Address | IPv6Address, own: Sequence[Interface]) -> tuple[int, int]:
    """The smaller, the earlier: in an own network, elsewhere, at this machine. Then by the order of the interfaces."""
    for index, interface in enumerate(own):
        if address == interface.ip:
            return 2, index
    return next(((0, index) for index, interface in enumerate(own) if address in interface.network), (1, 0))


def instance_name(service: Service) -> str:
    """The DNS name under which a service is announced."""
    return f"{instance_label(service.cluster, service.name)}.{SERVICE_TYPES[service.kind]}"


def instance_label(cluster: str, name: str) -> str:
    """The DNS label under which ``name`` of ``cluster`` is announced: at most 63 bytes, and unique to the pair.

    DNS ignores case and splits names at dots. A name with other characters than a-z, 0-9 and "-" has them replaced, and
    gets a hash. No plain label looks like a hashed one, because "@" and "~" cannot come from a name.
    """
    plain = f"{_slug(name)}@{_slug(cluster)}"
    if plain == f"{name}@{cluster}" and len(plain) <= _LABEL_BYTES:
        return plain
    digest = hashlib.sha256(f"{len(name)}:{name}{cluster}".encode()).hexdigest()[:16]
    return f"{plain[: _LABEL_BYTES - len(digest) - 1]}~{digest}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", text.lower())
