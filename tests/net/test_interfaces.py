"""The interfaces for mDNS follow from the listen address."""

from __future__ import annotations

import pytest

from edgenode.errors import ConfigError
from edgenode.net.interfaces import LOOPBACK, check_interfaces, interfaces_for


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
