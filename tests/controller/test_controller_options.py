"""The options of a controller, as a user writes them."""

from __future__ import annotations

import pytest

from edgenode.controller.controller_options import public_address
from edgenode.errors import ConfigError
from edgenode.security.public_address import PublicAddress


@pytest.mark.parametrize(
    ("public", "listen", "enrol", "found"),
    [
        ("", "0.0.0.0:7700", "", None),
        ("run.example.org", "0.0.0.0:7700", "", ("run.example.org", 7700, 7701)),
        ("run.example.org", "0.0.0.0:7700", "0.0.0.0:443", ("run.example.org", 7700, 443)),
        ("run.example.org:17700", "0.0.0.0:7700", "0.0.0.0:443", ("run.example.org", 17700, 17701)),
        ("run.example.org:17700", "0.0.0.0:0", "", ("run.example.org", 17700, 17701)),
        ("203.0.113.10", "0.0.0.0:7750", "", ("203.0.113.10", 7750, 7751)),
        ("2001:db8::10", "[::]:7700", "", ("2001:db8::10", 7700, 7701)),
        ("[2001:db8::10]", "[::]:7700", "", ("2001:db8::10", 7700, 7701)),
        ("[2001:db8::10]:17700", "[::]:7700", "", ("2001:db8::10", 17700, 17701)),
    ],
)
def test_public_address_has_both_ports(
    public: str, listen: str, enrol: str, found: tuple[str, int, int] | None
) -> None:
    assert public_address(public, listen, enrol) == (None if found is None else PublicAddress(*found))


@pytest.mark.parametrize(
    ("public", "listen", "enrol"),
    [
        ("run.example.org", "0.0.0.0:0", ""),
        ("run.example.org", "0.0.0.0:7700", "0.0.0.0:0"),
        ("run.example.org:65535", "0.0.0.0:7700", ""),
        ("run.example.org:0", "0.0.0.0:7700", ""),
        ("localhost", "0.0.0.0:7700", ""),
        ("https://run.example.org", "0.0.0.0:7700", ""),
    ],
)
def test_public_address_that_nobody_can_dial_is_refused(public: str, listen: str, enrol: str) -> None:
    with pytest.raises(ConfigError):
        public_address(public, listen, enrol)
