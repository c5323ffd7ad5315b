"""The order in which announced addresses are dialled."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from edgenode.net.dialling import ipv4_first

ONE, OTHER = "10.0.0.5:7700", "[fd00::5]:7700"


@pytest.mark.parametrize(
    ("found", "shown"),
    [([OTHER, ONE], [[ONE], [OTHER, ONE]]), ([ONE], [[ONE]]), ([OTHER], [[OTHER]]), ([], [[]])],
)
async def test_ipv4_has_a_head_start_where_both_families_are_found(found: list[str], shown: list[list[str]]) -> None:
    async def targets() -> AsyncIterator[list[str]]:
        yield found

    began = time.monotonic()
    assert [targets async for targets in ipv4_first(targets(), 0.1)] == shown
    assert (time.monotonic() - began >= 0.1) == (len(shown) > 1)
