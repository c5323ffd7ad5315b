"""Waits, log lines and the end of retries, in virtual time: no test sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from edgenode.errors import RemoteProtocolError, TransportError
from edgenode.net.retry import CONNECT_S, PATIENT_CONNECT_S, Backoff, Outage, retry, stay_connected

BACKOFF = Backoff(initial_s=0.1, max_s=2.0, jitter_s=0.0)


class _Skipping(selectors.DefaultSelector):
    """Passes a timeout at once, and adds it to the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.skipped_s += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock starts at 0 and jumps to the next timer."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_s


def play(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario)


def now() -> float:
    return asyncio.get_running_loop().time()


class Attempts:
    """Fails until a time, and notes when it was called."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.at: list[float] = []

    async def __call__(self) -> str:
        self.at.append(round(now(), 3))
        if now() < self.until_s:
            raise TransportError(f"failure {len(self.at)}")
        return "connected"


def an_outage(log: list[tuple[float, int, str]], **options: float) -> Outage:
    return Outage(lambda since_s, why: log.append((round(now(), 3), since_s, why)), **options)


def test_waits_double_up_to_the_maximum() -> None:
    async def scenario() -> None:
        attempts = Attempts(until_s=10)
        assert await retry(attempts, an_outage([]), BACKOFF) == "connected"
        waits = [round(b - a, 3) for a, b in zip(attempts.at, attempts.at[1:], strict=False)]
        assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 2.0]

    play(scenario())


def test_jitter_is_added_within_the_maximum() -> None:
    async def scenario() -> None:
        first, last = set(), set()
        for _ in range(20):
            attempts = Attempts(until_s=now() + 5)
            await retry(attempts, an_outage([]), Backoff(initial_s=0.1, max_s=0.5, jitter_s=0.2))
            first.add(attempts.at[1] - attempts.at[0])
            last.add(attempts.at[-1] - attempts.at[-2])
        assert 0.09 < min(first) < max(first) < 0.31
        assert 0.49 < min(last) <= max(last) < 0.51

    play(scenario())


@pytest.mark.parametrize("first_s", [1.0, 10.0])
def test_outage_is_logged_every_ten_seconds(first_s: float) -> None:
    async def scenario() -> None:
        log: list[tuple[float, int, str]] = []
        attempts = Attempts(until_s=35)
        await retry(attempts, an_outage(log, first_s=first_s), BACKOFF)
        assert len(log) == (4 if first_s == 1 else 3)
        for number, (logged_at, since_s, why) in enumerate(log):
            assert since_s == round(logged_at)
            assert 0 <= logged_at - (first_s + 10 * number) < BACKOFF.max_s * (number + 1)
            assert why == f"failure {attempts.at.index(logged_at) + 1}"

    play(scenario())


def test_short_outage_is_not_logged() -> None:
    async def scenario() -> None:
        log: list[tuple[float, int, str]] = []
        outage = an_outage(log)
        for _ in range(5):  # together they are longer than ten seconds
            await retry(Attempts(until_s=now() + 5), outage, BACKOFF)
            outage.end()
        assert log == []

    play(scenario())


def test_outage_lasts_until_the_other_side_answers() -> None:
    """A connection that breaks before an answer does not begin a new outage."""

    async def scenario() -> None:
        log: list[tuple[float, int, str]] = []
        outage = an_outage(log)
        for _ in range(3):
            await retry(Attempts(until_s=now() + 5), outage, BACKOFF)
        assert [since_s for _, since_s, _ in log] == [round(log[0][0])]
        assert log[0][0] >= 10

    play(scenario())


def test_connections_may_take_longer_the_longer_an_outage_lasts() -> None:
    async def scenario() -> None:
        outage, given = an_outage([]), list[float]()
        for _ in range(4):
            given.append(outage.connect_s)
            await asyncio.sleep(outage.connect_s)
            outage.note("no answer")
        assert given == [CONNECT_S, CONNECT_S, 2 * CONNECT_S, PATIENT_CONNECT_S]
        outage.end()
        assert outage.connect_s == CONNECT_S

    play(scenario())


def test_other_errors_are_raised_at_once() -> None:
    async def scenario() -> None:
        calls = []

        async def refused() -> None:
            calls.append(now())
            raise RemoteProtocolError("refused")

        with pytest.raises(RemoteProtocolError, match="refused"):
            await retry(refused, an_outage([]), BACKOFF)
        with pytest.raises(RemoteProtocolError, match="refused"):
            await stay_connected(refused, lambda: False, an_outage([]), BACKOFF)
        assert calls == [0.0, 0.0]

    play(scenario())


async def test_timeout_raises_the_last_failure() -> None:
    """In real time: stamina measures it with the system's clock."""
    attempts = Attempts(until_s=float("inf"))
    with pytest.raises(TransportError) as caught:
        await retry(attempts, an_outage([]), Backoff(0.01, 0.02, 0.0), timeout_s=0.1)
    assert len(attempts.at) > 2
    assert str(caught.value) == f"failure {len(attempts.at)}"
    assert attempts.at[-1] - attempts.at[0] >= 0.09


# --- staying connected


def connections(lengths_s: list[float]) -> tuple[Any, list[float]]:
    """(connect, times of its calls): each connection lasts for a while and breaks, the last one ends well."""
    began: list[float] = []

    async def connect() -> None:
        began.append(round(now(), 3))
        await asyncio.sleep(lengths_s[len(began) - 1])
        if len(began) < len(lengths_s):
            raise TransportError("broken")

    return connect, began


def test_broken_connections_are_opened_again() -> None:
    async def scenario() -> None:
        connect, began = connections([5.0, 0.0, 7.0, 1.0])
        await stay_connected(connect, lambda: len(began) == 4, an_outage([]), BACKOFF)
        assert began == [0.0, 5.1, 5.3, 12.7]

    play(scenario())


def test_connection_that_ends_well_is_followed_by_the_next() -> None:
    async def scenario() -> None:
        began: list[float] = []

        async def connect() -> None:
            began.append(now())
            await asyncio.sleep(1)

        await stay_connected(connect, lambda: len(began) == 3, an_outage([]), BACKOFF)
        assert began == [0.0, 1.0, 2.0]

    play(scenario())


def test_connection_that_breaks_when_done_is_the_last() -> None:
    async def scenario() -> None:
        connect, began = connections([3.0, 3.0])
        await stay_connected(connect, lambda: now() >= 2, an_outage([]), BACKOFF)
        assert began == [0.0]

    play(scenario())


def test_nothing_is_opened_when_done_from_the_start() -> None:
    async def scenario() -> None:
        connect, began = connections([1.0])
        await stay_connected(connect, lambda: True, an_outage([]), BACKOFF)
        assert began == []

    play(scenario())


def test_cancellation_ends_the_retries() -> None:
    async def scenario() -> None:
        attempts = Attempts(until_s=float("inf"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await retry(attempts, an_outage([]), BACKOFF)
        assert now() == pytest.approx(5)
        assert attempts.at[-1] < 5

    play(scenario())
