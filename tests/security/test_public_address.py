"""An address that anyone may have written is judged before a device dials it."""

from __future__ import annotations

import pytest

from edgenode.errors import ConfigError
from edgenode.security.public_address import LONGEST_HOST, PublicAddress, checked_host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("run.example.org", "run.example.org"),
        ("Run.Example.ORG.", "run.example.org"),
        ("pi-4", "pi-4"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("203.0.113.10", "203.0.113.10"),
        ("2001:DB8:0::10", "2001:db8::10"),
        ("100.64.0.7", "100.64.0.7"),
    ],
)
def test_host_is_written_as_usual(text: str, host: str) -> None:
    assert checked_host(text) == host == checked_host(host)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "a..b", "-a.org", "a-.org", "a b", "a\n", "a/b", "user@a", "a:1", "a%0a.org", "bücher.example",
        "127.1", "0x7f.1", "2130706433", "0x7f000001", "a.0x1", "1.2.3.256",  # inet_aton takes them for an address
        "localhost", "a.localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.251", "ff02::fb", "fe80::1%eth0",
        "a" * (LONGEST_HOST + 1),
    ],
)  # fmt: skip
def test_what_other_machines_cannot_dial_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        checked_host(text)


def test_address_is_that_of_the_controller() -> None:
    assert str(PublicAddress("run.example.org", 7700, 7701)) == "run.example.org:7700"
    assert str(PublicAddress("2001:db8::10", 7700, 7701)) == "[2001:db8::10]:7700"
