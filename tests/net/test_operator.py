"""Operator client and server over real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from edgenode.core.protocol.events import UNREQUESTED, Reply
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.errors import ConfigError, EdgenodeError, GraphError, RemoteProtocolError, TransportError
from edgenode.net import operator_server
from edgenode.net.operator_client import OperatorClient, operator_client
from edgenode.net.operator_server import OperatorServer
from edgenode.net.proto import operator_pb2
from edgenode.net.rpc import serving
from edgenode.security.subject import Caller
from tests.net.peer_ends import a_long_way


class Run:
    """A run that records the requests it gets."""

    def __init__(self, error: EdgenodeError | None = None) -> None:
        self.error, self.asked, self.missing, self.reply = error, [], 3, Reply(7, 42)
        self.server = OperatorServer(self)

    def status(self) -> ClusterStatus:
        return ClusterStatus("home", missing=self.missing)

    def open_page(self, who: Caller | None) -> str:
        self._note("operator anyone", "page", who)
        return "http://127.0.0.1:8080/"

    async def rotate(self, by: str, graphs: tuple[GraphSpec, ...], period: Period, wait: bool = False) -> Reply:
        self._note(by, graphs, period, wait)
        return self.reply

    async def stop(self, by: str, wait: bool = False) -> Reply:
        self._note(by, "stop", wait)
        return self.reply

    async def extend(self, by: str, rounds: int, wait: bool = False) -> Reply:
        self._note(by, "extend", rounds, wait)
        return self.reply

    async def pause(self, by: str) -> int:
        return self._note(by, "pause")

    async def resume(self, by: str) -> int:
        return self._note(by, "resume")

    async def evict(self, by: str, node: str, force: bool) -> Reply:
        self._note(by, node, force)
        return self.reply

    def _note(self, by: object, *asked: object) -> int:
        assert by == "operator anyone"  # without certificates
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


@pytest.mark.slow
async def test_round_trip_may_be_that_of_satellites() -> None:
    run = Run()
    async with (
        serving("127.0.0.1:0", [(operator_server.SERVICE, run.server.add_to)], 0.0) as port,
        a_long_way(f"127.0.0.1:{port}") as target,
        operator_client(target) as calls,
    ):
        assert (await calls.status()).missing == 3


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
        assert (await calls.rotate(graphs, Period(6, "epochs"))).start == 42
        assert (await calls.rotate(graphs, Period(6), wait=True)).start == 42
        assert (await calls.stop()).start == await calls.pause() == await calls.resume() == 42
        assert (await calls.extend(2000)).start == 42
        assert (await calls.evict("n1", force=True)).start == 42
        assert await calls.open_page() == "http://127.0.0.1:8080/"
    assert run.asked == [
        (graphs, Period(6, "epochs"), False),
        (graphs, Period(6), True),
        ("stop", False),
        ("pause",),
        ("resume",),
        ("extend", 2000, False),
        ("n1", True),
        ("page", None),  # of nobody, without certificates
    ]


async def test_reply_to_a_queued_change_names_what_it_waits_for() -> None:
    run = Run()
    run.reply = Reply(7, None, waits_for="the run resumes", earliest=12, replaces="graph c")
    async with run.operated() as calls:
        assert await calls.rotate([GraphSpec("a")], Period(1)) == replace(run.reply, request_id=UNREQUESTED)
        stop = await calls.stop()
    assert (stop.start, stop.waits_for, stop.earliest) == (None, "the run resumes", 12)


async def test_reply_names_what_is_used_in_place_of_the_requested_graph() -> None:
    run = Run()
    run.reply = Reply(7, 42, difference="graph a is used instead of mine")
    async with run.operated() as calls:
        assert (await calls.evict("n1", False)).difference == run.reply.difference
        assert (await calls.rotate([GraphSpec("a")], Period(1))).difference == run.reply.difference


async def test_client_of_an_earlier_version_waits_for_the_round() -> None:
    run = Run()
    async with run.operated() as calls:
        await calls._stub.Rotate(operator_pb2.RotateRequest(every=1))
        await calls._stub.Stop(operator_pb2.StopRequest())
    assert run.asked == [((), Period(1), True), ("stop", True)]


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
