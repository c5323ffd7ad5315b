"""The addresses at which a controller sees nodes: which of them tell peers anything, and what a node knows of them."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.orders import Hello, Leadership
from edgenode.net.observed_addresses import ObservedAddresses, observed_address


def named(**addresses: str) -> Observed:
    return Observed(tuple(ObservedAddress(*one) for one in addresses.items()))


@pytest.mark.parametrize(
    ("own", "seen", "observed"),
    [
        ("192.168.1.11:7600", "203.0.113.20:41234", "203.0.113.20:7600"),
        ("192.168.1.11:7600", "[2001:db8::5]:41234", "[2001:db8::5]:7600"),
        ("[fd00::11]:7600", "100.64.0.2:41234", "100.64.0.2:7600"),
        ("192.168.1.11:7600", "192.168.1.11:41234", ""),
        ("[2001:db8::5]:7600", "[2001:db8::5]:41234", ""),
        ("192.168.1.11:7600", "127.0.0.1:41234", ""),
        ("192.168.1.11:7600", "[::1]:41234", ""),
        ("192.168.1.11:7600", "[fe80::1%eth0]:41234", ""),
        ("192.168.1.11:7600", "169.254.7.7:41234", ""),
        ("192.168.1.11:0", "203.0.113.20:41234", ""),
        ("192.168.1.11:99999", "203.0.113.20:41234", ""),
        ("", "203.0.113.20:41234", ""),
        ("192.168.1.11:7600", "unix:", ""),
        ("192.168.1.11:7600", "somewhere:1", ""),
    ],
)
def test_observed_address_is_the_host_that_is_seen_with_the_own_port(own: str, seen: str, observed: str) -> None:
    assert observed_address(own, seen) == observed


def test_node_knows_what_was_named_first_and_last() -> None:
    known = ObservedAddresses("n0")
    assert known.of("n1") == ""
    known.take(named(n1="203.0.113.20:7600"))
    known.take(named(n2="203.0.113.21:7600"))
    known.take(None)
    assert (known.of("n1"), known.of("n2")) == ("203.0.113.20:7600", "203.0.113.21:7600")
    known.take(named(n1="203.0.113.120:7600"))
    assert known.of("n1") == "203.0.113.120:7600"


def test_node_does_not_dial_its_own_router() -> None:
    known = ObservedAddresses("n0")
    known.take(named(n0="203.0.113.20:7600", n1="203.0.113.20:7601", n2="203.0.113.21:7600"))
    assert (known.of("n0"), known.of("n1"), known.of("n2")) == ("", "", "203.0.113.21:7600")


def test_node_that_connects_again_may_be_elsewhere() -> None:
    known = ObservedAddresses("n0")
    known.take(named(n0="203.0.113.20:7600", n1="203.0.113.20:7601"))
    known.take(Hello(Leadership(3)))  # no address of this node follows: it is in the network of the controller now
    assert known.of("n1") == "203.0.113.20:7601"


def test_addresses_that_were_named_first_give_way() -> None:
    known = ObservedAddresses("n0")
    known.take(named(**{f"m{i}": f"203.0.113.20:{i + 1}" for i in range(1_500)}))
    known.take(named(**{f"m{i}": f"203.0.113.20:{i + 1}" for i in (0, *range(1_500, 2_100))}))
    assert [i for i in range(2_100) if known.of(f"m{i}")] == [0, *range(53, 2_100)]
