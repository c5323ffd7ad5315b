"""Checks of the network, with real sockets, real servers and real mDNS on loopback."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgenode.core.protocol.status import ClusterStatus, NodeView, RelayView
from edgenode.doctor import Finding, Level, network
from edgenode.errors import ClockError, EdgenodeError, TransportError
from edgenode.net import operator_server
from edgenode.net.discovery import Discovery
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_service import Service
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import serving
from edgenode.net.wire import PROTOCOL
from edgenode.security.authority import Authority

ANY = "127.0.0.1:0"


def a_controller(status: ClusterStatus) -> list[tuple[str, object]]:
    return [(operator_server.SERVICE, OperatorServer(SimpleNamespace(status=lambda: status)).add_to)]  # type: ignore[arg-type]


async def seen(cluster: str, controller: str) -> dict[str, Finding]:
    return {finding.check: finding async for finding in network.others(cluster, controller, (), LOOPBACK)}


# --- ports


async def test_port_is_ok_if_free_or_served_by_edgenode() -> None:
    async with serving(ANY, []) as port:
        found = await network.port("port", f"0.0.0.0:{port}", True)
        assert (found.level, found.text) == (Level.OK, f"edgenode serves at 0.0.0.0:{port} already")
    assert (await network.port("port", f"127.0.0.1:{port}", True)).text == f"127.0.0.1:{port} is free"


async def test_port_is_ok_if_devices_enrol_there(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "home")
    authority.controller()
    async with serving_http(enrolment_app(authority), ANY, "--enrol", authority.controller_file) as url:
        listen = url.removeprefix("https://")
        found = await network.port("port", listen, False, None)
    assert (found.level, found.text) == (Level.OK, f"edgenode serves at {listen} already")


@pytest.mark.slow
@pytest.mark.parametrize(("needed", "level"), [(True, Level.PROBLEM), (False, Level.WARNING)])
async def test_port_of_another_program_is_reported(needed: bool, level: Level) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        found = await network.port("port", listen, needed)
    assert (found.level, found.text) == (level, f"cannot listen on {listen}: address already in use")


# --- multicast (the rest in namespaces: tests/e2e/test_doctor.py)


async def test_missing_network_is_reported() -> None:
    (found,) = [finding async for finding in network.multicast((LOOPBACK,), True)]
    assert (found.level, found.text) == (Level.WARNING, "no interface except loopback is up")


@pytest.mark.parametrize("needed", [True, False])
async def test_controller_is_advised_only_where_one_is_wanted(needed: bool) -> None:
    (found,) = [finding async for finding in network.multicast(("203.0.113.9",), needed)]  # nobody has this address
    assert ("--controller" in found.remedy) == needed, found


# --- other processes


async def test_controller_reports_its_nodes_and_its_clock() -> None:
    nodes: list[NodeView] = []

    def status() -> ClusterStatus:
        return ClusterStatus("home", missing=1, nodes=tuple(nodes), unix_time_s=time.time())

    async with serving(ANY, [(operator_server.SERVICE, OperatorServer(SimpleNamespace(status=status)).add_to)]) as port:  # type: ignore[arg-type]
        there, gone = f"127.0.0.1:{port}", "127.0.0.1:9"
        nodes += [NodeView("pi-1", there), NodeView("pi-2", gone)]
        found = await seen("home", there)
        assert found["controller"] == Finding("controller", Level.OK, f"{there} answers, has 2 nodes, waits for 1 more")
        assert found["clock"].level is Level.OK
        assert found["nodes"].level is Level.WARNING
        assert found["nodes"].text.startswith(f"pi-1 at {there}, pi-2 at {gone}; no answer from pi-2 (")
        assert found["nodes"].remedy.endswith(", or start edgenode relay, or the controller with --relay")


async def test_node_that_nobody_can_dial_is_no_fault_where_the_controller_relays() -> None:
    status = ClusterStatus("home", nodes=(NodeView("pi-2", "127.0.0.1:9"),), unix_time_s=time.time(), relays=True)
    async with serving(ANY, a_controller(status)) as port:
        found = await seen("home", f"127.0.0.1:{port}")
    assert found["controller"].text.endswith(", relays for nodes that nobody can dial")
    assert found["nodes"].level is Level.OK
    assert found["nodes"].text.endswith("so what goes there is relayed, or goes over a connection that it opens")


@pytest.mark.slow
async def test_relay_that_does_not_answer_is_a_warning() -> None:
    async with serving(ANY, []) as port:
        relays = (RelayView("fra", f"127.0.0.1:{port}", True, 0.0), RelayView("ber", "127.0.0.1:9", False, 9.0))
        status = ClusterStatus("home", unix_time_s=time.time(), relays=True, relay_processes=relays)
        async with serving(ANY, a_controller(status)) as there:
            all_found = [one async for one in network.others("home", f"127.0.0.1:{there}", (), LOOPBACK)]
    found = [one for one in all_found if one.check == "relay"]
    assert [(one.level, one.text.partition(" at ")[0]) for one in found] == [
        (Level.OK, "fra"),
        (Level.WARNING, "no answer from the relay ber"),
    ]


@pytest.mark.parametrize(("ahead_s", "text"), [(3600, "3,600.0 s ahead of ours"), (-1e9, "s behind ours")])
async def test_clock_that_is_far_off_is_a_warning(ahead_s: float, text: str) -> None:
    status = ClusterStatus(cluster="home", unix_time_s=time.time() + ahead_s)
    async with serving(ANY, a_controller(status)) as port:  # type: ignore[arg-type]
        clock = (await seen("home", f"127.0.0.1:{port}"))["clock"]
    assert clock.level is Level.WARNING
    assert text in clock.text


@pytest.mark.slow
async def test_wrong_or_missing_controller_is_a_problem() -> None:
    async with serving(ANY, a_controller(ClusterStatus(cluster="lab"))) as port:  # type: ignore[arg-type]
        found = await seen("home", f"127.0.0.1:{port}")
        assert found["controller"].level is Level.PROBLEM
        assert f"127.0.0.1:{port} belongs to cluster 'lab', not 'home'" == found["controller"].text
    found = await seen("home", f"127.0.0.1:{port}")
    assert found["controller"].level is Level.PROBLEM


async def test_given_peers_are_dialled() -> None:
    async with serving(ANY, []) as port:
        there, gone = f"127.0.0.1:{port}", "127.0.0.1:9"
        (found,) = [finding async for finding in network.others("home", "none", (there, gone), LOOPBACK)]
    assert found.level is Level.WARNING
    assert found.text.startswith(
        f"{there}, {gone}; no answer from {gone} (no server answers at {gone}: connection refused: "
    )
    assert "open its port in the firewall" in found.remedy


@pytest.mark.slow
async def test_announced_processes_are_dialled() -> None:
    ours, other = f"t-{uuid.uuid4().hex[:8]}", f"t-{uuid.uuid4().hex[:8]}"
    status = ClusterStatus(cluster=ours, unix_time_s=time.time())
    async with serving(ANY, a_controller(status)) as port, Discovery(ours, (LOOPBACK,)) as discovery:  # type: ignore[arg-type]
        await discovery.announce(Service("controller", ours, "controller", (), port, PROTOCOL))
        await discovery.announce(Service("node", ours, "pi-1", (), port, PROTOCOL))
        found = await seen(ours, "mdns")
        assert [found[check].level for check in ("controller", "clock", "nodes")] == [Level.OK] * 3
        assert found["nodes"].text == f"pi-1 at 127.0.0.1:{port}; all answer"
        found = await seen(other, "mdns")
        assert found["controller"].level is Level.WARNING
        assert (
            f"no controller of cluster '{other}' is announced by mDNS; other clusters are " in found["controller"].text
        )
        assert ours in found["controller"].text


@pytest.mark.parametrize(
    "error",
    [ClockError("n2: late"), TransportError("n2: it ended the connection; compare both clocks, and read its log")],
)
def test_device_with_another_clock_is_not_told_to_open_a_port(error: EdgenodeError) -> None:
    assert network._remedy(error) == "compare the clocks of both devices"
    assert "firewall" in network._remedy(TransportError("n2: no answer"))
