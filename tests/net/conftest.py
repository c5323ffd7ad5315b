"""What the tests of links over gRPC share."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task outlives a test, and neither asyncio nor gRPC has logged an error."""
    yield
    gc.collect(1)  # the youngest generations hold what a test has just made
    await asyncio.sleep(0)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
