"""The network interfaces of this machine, by their IP addresses."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from pathlib import Path

import ifaddr

from edgenode.errors import ConfigError

LOOPBACK = "127.0.0.1"
WILDCARDS = ("", "0.0.0.0", "::")
Interface = IPv4Interface | IPv6Interface
"""An address of this machine, with its network."""

_IFF_UP = 1
_IF_INET6 = Path("/proc/net/if_inet6")
_PASSING = 0x01 | 0x08 | 0x20 | 0x40  # IFA_F_TEMPORARY, _DADFAILED, _DEPRECATED, _TENTATIVE


def interfaces_for(listen_host: str) -> tuple[str, ...]:
    """The addresses of the interfaces on which a process that listens on ``listen_host`` uses mDNS.

    A loopback host uses loopback only. "" and the wildcards use every interface that is up, with IPv4 and IPv6, and
    loopback. Any other address uses itself.

    Raises:
        ConfigError: it is a host name.
    """
    if listen_host in WILDCARDS:
        return (*network_addresses(), LOOPBACK)
    if listen_host == "localhost" or parse_ip(listen_host, "listen host").is_loopback:
        return (LOOPBACK,)
    return (listen_host,)


def address_for_others(listen_host: str) -> str:
    """The one address at which other machines most likely reach a process that listens on ``listen_host``.

    For a wildcard, it is that of the interface with the route to the internet, or else of the first one. Loopback is
    the answer if there is nothing else.

    Raises:
        ConfigError: it is a host name.
    """
    if listen_host not in WILDCARDS:
        return interfaces_for(listen_host)[0]
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing, only selects the route
            return str(probe.getsockname()[0])
    return interfaces_for(listen_host)[0]


def addresses_to_announce(listen_host: str) -> tuple[str, ...]:
    """The addresses at which mDNS announces a process. Empty for those of its interfaces.

    A process that listens at one address of loopback, such as ::1, is not at the others.
    """
    return (listen_host,) if listen_host != "localhost" and is_loopback(listen_host) else ()


def network_addresses() -> tuple[str, ...]:
    """The addresses of all interfaces that are up, except loopback: those of IPv4 first, in the system's order.

    Link-local IPv6 addresses are left out, because they mean something else at each machine. So are those that do not
    last, such as the temporary ones that hide a machine from servers.
    """
    return tuple(str(interface.ip) for interface in network_interfaces())


def network_interfaces() -> tuple[Interface, ...]:
    """``network_addresses``, with the network of each."""
    passing = _passing_addresses()
    found = [_interface(ip) for adapter in ifaddr.get_adapters() if _is_up(adapter.name) for ip in adapter.ips]
    lasting = [one for one in found if not one.ip.is_loopback and not _is_scoped(one) and one.ip not in passing]
    return tuple(sorted(lasting, key=lambda one: one.version))


def interface_of(address: str) -> tuple[str, int]:
    """The name and the index of the interface that has an address.

    Raises:
        OSError: none has it.
    """
    for adapter in ifaddr.get_adapters():
        if any(str(_interface(ip).ip) == address for ip in adapter.ips):
            return adapter.nice_name, adapter.index or 0
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def _interface(ip: ifaddr.IP) -> Interface:
    if isinstance(ip.ip, str):
        return IPv4Interface((ip.ip, ip.network_prefix))
    return IPv6Interface((ip.ip[0], ip.network_prefix))


def _is_scoped(interface: Interface) -> bool:
    return interface.version == 6 and interface.ip.is_link_local


def _passing_addresses() -> frozenset[IPv6Address]:
    """The IPv6 addresses that this machine has for a while, or not yet. Known on Linux only."""
    try:
        rows = [line.split() for line in _IF_INET6.read_text().splitlines()]
    except OSError:
        return frozenset()
    return frozenset(IPv6Address(int(row[0], 16)) for row in rows if int(row[4], 16) & _PASSING)


def is_loopback(host: str) -> bool:
    """Return whether a host of an address is this machine's loopback interface, by name or by address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_this_machine(host: str) -> bool:
    """Return whether a host name or an address belongs to this machine. False if the name cannot be resolved."""
    own = own_addresses()
    try:
        found = {str(address[0]) for *_, address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(is_loopback(address) or address in own for address in found)


def check_interfaces(addresses: Sequence[str]) -> None:
    """Check that each address belongs to this machine.

    Raises:
        ConfigError: one does not, or is not an IP address.
    """
    known = own_addresses()
    for address in addresses:
        if not parse_ip(address, "interface").is_loopback and address not in known:
            raise ConfigError(f"no interface has the address {address}: choose one of {', '.join(sorted(known))}")


def parse_ip(address: str, what: str) -> IPv4Address | IPv6Address:
    """An IP address from text.

    Args:
        what: names the address in the error.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return ip_address(address)
    except ValueError as exc:
        raise ConfigError(f"{what} {address!r} is not an IP address") from exc


def _is_up(interface: str) -> bool:
    """False only if the system reports that the interface is down. ifaddr lists those too."""
    try:
        return bool(int(Path(f"/sys/class/net/{interface}/flags").read_text(), 16) & _IFF_UP)
    except (OSError, ValueError):
        return True


def own_addresses() -> set[str]:
    """Every address of this machine."""
    return {ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips}
