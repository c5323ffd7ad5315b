"""Operator client and server over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.errors import ConfigError, EdgenodeError, GraphError, RemoteProtocolError, TransportError
from edgenode.net import operator_server
from edgenode.net.operator_client import OperatorClient, operator_client
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import serving


class Run:
    """A run that records the requests it gets."""

    def __init__(self, error: EdgenodeError | None = None) -> None:
        self.error, self.asked, self.missing = error, [], 3
        self.server = OperatorServer(self)

    def status(self) -> ClusterStatus:
        return ClusterStatus("home", missing=self.missing)

    async def rotate(self, graphs: tuple[GraphSpec, ...], period: Period) -> int:
        return self._note(graphs, period)

    async def stop(self) -> int:
        return self._note("stop")

    async def pause(self) -> int:
        return self._note("pause")

    async def resume(self) -> int:
        return self._note("resume")

    async def evict(self, node: str, force: bool) -> int:
        return self._note(node, force)

    def _note(self, *asked: object) -> int:
        if self.error is not None:
            raise self.error
        self.asked.append(asked)
        return 42

    @asynccontextmanager
    async def operated(self) -> AsyncIterator[OperatorClient]:
        async with (
            serving("127.0.0.1:0", [(operator_server.SERVICE, self.server.add_to)], 0.0) as port,
            operator_client(f"127.0.0.1:{port}") as calls,
        ):
            yield calls


async def test_status_is_current() -> None:
    run = Run()
    async with run.operated() as calls:
        assert (await calls.status()).missing == 3
        run.missing = 2
        assert (await calls.status()).missing == 2


async def test_watch_ends_with_the_last_status_of_the_run() -> None:
    run, seen = Run(), []
    async with run.operated() as calls, asyncio.timeout(5):
        async for status in calls.watch():
            seen.append(status.missing)
            if len(seen) == 2:
                run.missing = 0
                run.server.end()
    assert seen == [3, 3, 0]


async def test_watch_of_a_finished_run_yields_one_status() -> None:
    run = Run()
    run.server.end()
    async with run.operated() as calls:
        assert [status.missing async for status in calls.watch()] == [3]


async def test_watch_of_a_lost_controller_is_a_transport_error() -> None:
    run = Run()
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        async with serving("127.0.0.1:0", [(operator_server.SERVICE, run.server.add_to)], 0.0) as port:
            task = asyncio.create_task(_watch_all(f"127.0.0.1:{port}"), name="watch")
            await asyncio.sleep(0.2)
        await asyncio.wait_for(task, 5)


async def _watch_all(target: str) -> None:
    async with operator_client(target) as calls:
        async for _ in calls.watch():
            pass


async def test_every_request_arrives_and_returns_the_round() -> None:
    run = Run()
    graphs = (GraphSpec("a"), GraphSpec("mine", (("x", "y"), ("y", "x"))))
    async with run.operated() as calls:
        assert await calls.rotate(graphs, Period(6, "epochs")) == 42
        assert await calls.stop() == await calls.pause() == await calls.resume() == 42
        assert await calls.evict("n1", force=True) == 42
    assert run.asked == [(graphs, Period(6, "epochs")), ("stop",), ("pause",), ("resume",), ("n1", True)]


@pytest.mark.parametrize("error", [ConfigError("not now: 'n1' → away"), GraphError("a+b is not strongly connected")])
async def test_rejection_is_a_config_error_with_the_same_text(error: EdgenodeError) -> None:
    async with Run(error).operated() as calls:
        requests = (
            calls.rotate([GraphSpec("a")], Period(1)),
            calls.stop(),
            calls.pause(),
            calls.evict("n1", False),
        )
        for call in requests:
            with pytest.raises(ConfigError) as caught:
                await call
            assert str(caught.value) == str(error)


async def test_other_failure_keeps_its_text() -> None:
    async with Run(RemoteProtocolError("out of step")).operated() as calls:
        with pytest.raises(RemoteProtocolError, match="out of step"):
            await calls.stop()


async def test_graph_unknown_to_the_controller_is_a_config_error() -> None:
    newer = GraphSpec("a")
    object.__setattr__(newer, "name", "torus")  # a preset of a later version
    async with Run().operated() as calls:
        with pytest.raises(ConfigError, match="no graph named 'torus'"):
            await calls.rotate([newer], Period(1))


async def test_missing_controller_is_a_transport_error_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"no controller answers at 127\.0\.0\.1:1 \(waited 0\.3 s\)"):
        async with operator_client("127.0.0.1:1", timeout_s=0.3):
            pass
    assert time.monotonic() - began < 2
