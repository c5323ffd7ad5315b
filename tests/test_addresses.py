"""Addresses as text, in both directions, and free ports."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode import addresses
from edgenode.addresses import is_ipv6, join_address, split_address
from edgenode.errors import ConfigError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.5:7700", ("10.0.0.5", 7700)),
        ("pi.local:0", ("pi.local", 0)),
        ("[::1]:65535", ("::1", 65535)),
        (":7600", ("", 7600)),
    ],
)
def test_address_splits_into_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts
    assert join_address(*parts) == address


@given(st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True)), st.integers(0, 65535))
def test_split_is_the_inverse_of_join(host: str, port: int) -> None:
    assert split_address(join_address(host, port)) == (host, port)


@pytest.mark.parametrize(
    "wrong",
    ["", "host", "host:", "host:http", "host:-1", "host:65536", "[::1]", "host:7 ", "host:٧", "::1:7600", "[::1:7600"],
)
def test_malformed_address_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not an address: expected host:port"):
        split_address(wrong)


def test_ipv6_host_without_brackets_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"with an IPv6 host in brackets, \[::1\]:7600"):
        split_address("2001:db8::10:7600")  # 7600 may be a part of the host


def test_family_shows_in_the_host() -> None:
    assert is_ipv6("[2001:db8::10]:7600")
    assert not any(map(is_ipv6, ("10.0.0.5:7600", "run.example.org:7600", ":7600")))


def test_free_ports_are_distinct_and_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", addresses.free_ports(1)[0])) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(addresses, "_PORTS", range(port - 2, port + 3))
        ports = addresses.free_ports(5)
    assert len(set(ports)) == len(ports) >= 1
    assert port not in ports
