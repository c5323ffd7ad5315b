"""The interfaces for mDNS follow from the listen address."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgenode.errors import ConfigError
from edgenode.net import interfaces
from edgenode.net.interfaces import (
    LOOPBACK,
    address_for_others,
    addresses_to_announce,
    check_interfaces,
    interface_of,
    interfaces_for,
)


def test_interfaces_follow_the_listen_host() -> None:
    assert interfaces_for("127.0.0.1") == interfaces_for("127.8.0.1") == interfaces_for("localhost") == (LOOPBACK,)
    assert interfaces_for("192.0.2.7") == ("192.0.2.7",)
    everywhere = interfaces_for("0.0.0.0")
    assert everywhere == interfaces_for("")
    assert everywhere[-1] == LOOPBACK
    assert len(set(everywhere)) == len(everywhere)
    with pytest.raises(ConfigError, match="'kitchen' is not an IP address"):
        interfaces_for("kitchen")


def test_addresses_of_this_machine_are_accepted() -> None:
    check_interfaces(interfaces_for("0.0.0.0"))


def an_adapter(name: str, *ips: tuple[str | tuple[str, int, int], int]) -> SimpleNamespace:
    """An adapter as ifaddr describes it, with addresses and the lengths of their prefixes."""
    return SimpleNamespace(
        name=name, nice_name=name, index=7, ips=[SimpleNamespace(ip=ip, network_prefix=prefix) for ip, prefix in ips]
    )


@pytest.fixture
def with_ipv6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with addresses of every kind. The kernel says that one of them is temporary."""
    adapters = [
        an_adapter("lo9", (("::1", 0, 0), 128), ("127.0.0.1", 8)),
        an_adapter(
            "eth9", (("2001:db8::7", 0, 0), 64), (("2001:db8::a1b2", 0, 0), 64), (("fe80::7", 0, 2), 64),
            ("10.0.0.7", 24), (("fd00::7", 0, 0), 64),
        ),
    ]  # fmt: skip
    (tmp_path / "if_inet6").write_text(
        "20010db8000000000000000000000007 02 40 00 80     eth9\n20010db800000000000000000000a1b2 02 40 00 01     eth9\n"
    )
    monkeypatch.setattr("ifaddr.get_adapters", lambda: adapters)
    monkeypatch.setattr(interfaces, "_IF_INET6", tmp_path / "if_inet6")


@pytest.mark.usefixtures("with_ipv6")
def test_wildcard_uses_lasting_addresses_of_both_families() -> None:
    """IPv4 comes first. What is link-local or temporary is left out."""
    assert interfaces_for("0.0.0.0") == interfaces_for("::") == ("10.0.0.7", "2001:db8::7", "fd00::7", LOOPBACK)
    assert interface_of("2001:db8::7") == ("eth9", 7)
    with pytest.raises(OSError, match="No such device"):
        interface_of("2001:db8::8")


def test_machine_without_ipv4_has_an_address_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ifaddr.get_adapters", lambda: [an_adapter("eth9", (("fd00::7", 0, 0), 64))])
    monkeypatch.setattr("socket.socket.connect", lambda *_: (_ for _ in ()).throw(OSError("no route")))
    assert address_for_others("0.0.0.0") == "fd00::7"


def test_single_loopback_address_is_announced_itself() -> None:
    assert addresses_to_announce("::1") == ("::1",)
    assert addresses_to_announce("127.8.0.1") == ("127.8.0.1",)
    assert [addresses_to_announce(host) for host in ("localhost", "", "0.0.0.0", "::", "192.0.2.7")] == [()] * 5
