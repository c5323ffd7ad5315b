"""What others cause as often as they like takes a line at once, and then one a minute."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from edgenode.net import limited_log
from edgenode.net.limited_log import address_of, limited

log = structlog.get_logger()


def refuse(source: str = "10.0.0.9", cause: str = "no invite") -> None:
    limited(log.warning, "refused", source, cause, peer=source, reason=cause)


async def a_minute_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time() + 61
    monkeypatch.setattr(loop, "time", lambda: now)
    for _ in range(3):
        await asyncio.sleep(0)


async def test_first_is_logged_at_once_and_the_rest_counted_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"event": "refused", "log_level": "warning", "peer": "10.0.0.9", "reason": "no invite"}
    with capture_logs() as logged:
        for _ in range(729):
            refuse()
        assert logged == [line]
        await a_minute_passes(monkeypatch)
        assert logged == [line, {**line, "more": 728}]
        refuse()
        assert len(logged) == 2
        await a_minute_passes(monkeypatch)
        assert logged[2:] == [{**line, "more": 1}]
        await a_minute_passes(monkeypatch)
        refuse()  # after a quiet minute
        assert logged[3:] == [line]


async def test_another_cause_or_source_has_a_line_of_its_own() -> None:
    with capture_logs() as logged:
        for source in ("10.0.0.8", "10.0.0.9"):
            for cause in ("no invite", "its name is taken"):
                refuse(source, cause)
                refuse(source, cause)
    assert len(logged) == 4


async def test_endless_causes_and_sources_take_a_limited_number_of_lines() -> None:
    with capture_logs() as logged:
        for number in range(1000):
            refuse(cause=f"a name of the attacker's choice: {number}")
        assert len(logged) == limited_log._MOST_CAUSES
        for number in range(1000):
            refuse(f"10.0.{number // 256}.{number % 256}", "no invite")
    assert len(logged) < 2 * limited_log._MOST_SOURCES
    assert len(limited_log._SEEN[asyncio.get_running_loop()]) <= limited_log._MOST_SOURCES + 1


@pytest.mark.parametrize(
    ("peer", "address"),
    [("ipv4:10.0.0.9:51234", "ipv4:10.0.0.9"), ("ipv6:%5B::1%5D:51234", "ipv6:%5B::1%5D"), ("", "")],
)
def test_address_has_no_port(peer: str, address: str) -> None:
    assert address_of(peer) == address
