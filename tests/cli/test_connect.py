"""How the commands for a running cluster find its controller: real mDNS and gRPC on loopback, in a process each."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from edgenode.addresses import free_ports
from edgenode.core.protocol.status import ClusterStatus
from edgenode.net import credential_server, operator_server
from edgenode.net.credential_server import CredentialServer
from edgenode.net.discovery import Discovery
from edgenode.net.interfaces import LOOPBACK
from edgenode.net.mdns_service import Service
from edgenode.net.operator_server import OperatorServer
from edgenode.net.rpc import serving
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.security.authority import Authority
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.local import OPERATOR, OWN
from edgenode.security.secret_files import write_credentials
from edgenode.security.subject import CONTROLLER, Subject
from edgenode.storage.filesystem import default_state_dir

pytestmark = pytest.mark.group("connect")  # whose clusters have the same names in every process of a run

# Other tests may run on this machine, and are found too.
ONE, OTHER = f"connect-{os.getpid()}-1", f"connect-{os.getpid()}-2"


class Run:
    """A run that only shows its status."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster

    def status(self) -> ClusterStatus:
        return ClusterStatus(self._cluster, missing=3)


def served(
    cluster: str, listen: str = "127.0.0.1:0", security: Security = INSECURE
) -> AbstractAsyncContextManager[int]:
    """Serve the status of a cluster. Yields the port."""
    server = OperatorServer(Run(cluster))  # type: ignore[arg-type]  # it gets no other request
    return serving(listen, [(operator_server.SERVICE, server.add_to)], 0.0, security=security)


@asynccontextmanager
async def controller(cluster: str, listen: str = "127.0.0.1:0") -> AsyncIterator[int]:
    """Serve the status of a cluster, and announce it. Yields the port."""
    async with (
        served(cluster, listen) as port,
        Discovery(cluster, (LOOPBACK,)) as discovery,
    ):
        await discovery.announce(Service("controller", cluster, "controller", (), port, protocol=1))
        yield port


async def started(*words: str, insecure: bool = True) -> Process:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("EDGENODE_")}
    environ |= {"EDGENODE_INSECURE": "1"} if insecure else {}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgenode", *words, stdout=PIPE, stderr=PIPE, env=environ
    )


async def ended(process: Process) -> tuple[int | None, str, list[str]]:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode().splitlines()


@pytest.mark.slow
async def test_without_a_cluster_several_are_listed_to_choose_from() -> None:
    async with controller(ONE), controller(OTHER):
        code, out, errors = await ended(await started("evict", "n0"))
    assert (code, out) == (2, "")
    assert errors[-1].endswith("; choose one with --cluster NAME")
    found = errors[-1].partition("clusters: ")[2].partition(";")[0].split(", ")
    assert {ONE, OTHER} <= {*found}


@pytest.mark.slow
async def test_status_names_the_address_that_was_dialled() -> None:
    async with controller(ONE) as port:
        code, out, _ = await ended(await started("status", "--json", "--cluster", ONE))
    assert (code, json.loads(out)["controller"]) == (0, f"127.0.0.1:{port}")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["status", "page"])
async def test_closed_port_of_an_announced_controller_is_one_error(command: str) -> None:
    port = free_ports(1)[0]
    async with Discovery(ONE, (LOOPBACK,)) as discovery:
        await discovery.announce(Service("controller", ONE, "controller", (), port, protocol=1))
        code, out, errors = await ended(await started(command, "--cluster", ONE))
    assert (code, out) == (1, "")
    assert errors == [
        f"edgenode: waiting for an announced controller of cluster '{ONE}' to answer (Ctrl-C ends this)",
        f"edgenode: no controller that mDNS found answers (waited 5 s): 127.0.0.1:{port}: "
        "connection refused: nothing listens there, or a firewall rejects it",
    ]


@pytest.mark.slow
async def test_announced_impostors_do_not_keep_an_operator_out(tmp_path: Path) -> None:
    """One takes connections and says nothing, one has another authority, and one is a node of the cluster."""
    ca, other = make_authority(ONE), make_authority(ONE)
    operator = tmp_path / "operator.pem"
    write_credentials(operator, make_credentials(ca, Subject("operator", "anna")))
    async with AsyncExitStack() as stack:
        silent = stack.enter_context(socket.create_server((LOOPBACK, 0)))
        ports = {"a": silent.getsockname()[1], "b": free_ports(1)[0]}
        for name, credentials in (
            ("c", make_credentials(other, CONTROLLER)),
            ("d", make_credentials(ca, Subject("node", "n0"))),
            ("e", make_credentials(ca, CONTROLLER)),
        ):
            security = MutualTls(credentials, lambda subject, key_id: True)
            ports[name] = await stack.enter_async_context(served(ONE, security=security))
        discovery = await stack.enter_async_context(Discovery(ONE, (LOOPBACK,)))
        for name, port in ports.items():
            await discovery.announce(Service("controller", ONE, name, (), port, protocol=1))
        words = "status", "--json", "--cluster", ONE, "--credentials", str(operator)
        code, out, errors = await ended(await started(*words, insecure=False))
    assert code == 0, errors
    assert json.loads(out)["controller"] == f"127.0.0.1:{ports['e']}"


@pytest.mark.slow
async def test_credentials_that_fit_the_controller_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that ran here by mistake has left an authority of the same cluster, and an operator."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ca, other = make_authority(ONE), make_authority(ONE)
    base = default_state_dir(ONE, "")
    for path, credentials in (
        (base / "controller" / OPERATOR, make_credentials(other, Subject("operator", "local"))),
        (base / OPERATOR, make_credentials(ca, Subject("operator", "anna"))),
    ):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_credentials(path, credentials)
    security = MutualTls(make_credentials(ca, CONTROLLER), lambda subject, key_id: True)
    async with served(ONE, security=security) as port, Discovery(ONE, (LOOPBACK,)) as discovery:
        await discovery.announce(Service("controller", ONE, "controller", (), port, protocol=1))
        for where in (("--cluster", ONE), ("--controller", f"127.0.0.1:{port}")):
            code, out, errors = await ended(await started("status", "--json", *where, insecure=False))
            assert code == 0, errors
            assert json.loads(out)["controller"] == f"127.0.0.1:{port}"
        (base / OPERATOR).unlink()
        code, _, errors = await ended(await started("status", "--cluster", ONE, insecure=False))
    assert code == 1
    assert errors[-1].startswith("edgenode: no controller that mDNS found answers")


async def test_node_that_asks_what_only_operators_may_hears_the_remedy(tmp_path: Path) -> None:
    ca, own = make_authority(ONE), tmp_path / OWN
    write_credentials(own, make_credentials(ca, Subject("node", "pi-1")))
    security = MutualTls(make_credentials(ca, CONTROLLER), lambda subject, key_id: True)
    async with served(ONE, security=security) as port:
        words = "stop", "--controller", f"127.0.0.1:{port}", "--credentials", str(own)
        code, _, errors = await ended(await started(*words, insecure=False))
    assert code == 1
    (line,) = errors
    assert line == (
        f"edgenode: 127.0.0.1:{port} refuses: a certificate of the role node does not permit Stop, which takes the "
        "role operator; type the command where the controller runs, or become an operator: edgenode invite NAME "
        "--role operator, there"
    )


@pytest.mark.slow
async def test_health_of_a_cluster_is_asked_with_its_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    authorities = {cluster: make_authority(cluster) for cluster in (ONE, OTHER)}
    for cluster, ca in authorities.items():
        folder = default_state_dir(cluster, "n0")
        folder.mkdir(parents=True)
        write_credentials(folder / OWN, make_credentials(ca, Subject("node", "n0")))
    security = MutualTls(make_credentials(authorities[ONE], CONTROLLER), lambda subject, key_id: True)
    async with served(ONE, security=security) as port:
        address = f"127.0.0.1:{port}"
        code, _, errors = await ended(await started("health", address, insecure=False))
        assert code == 2
        assert errors[-1].endswith(f"credentials for 2 clusters, {ONE}, {OTHER}: choose one with --cluster NAME")
        code, out, errors = await ended(await started("health", address, "--cluster", ONE, insecure=False))
        assert (code, out) == (0, "serving\n"), errors
        code, _, errors = await ended(await started("health", address, "--cluster", OTHER, insecure=False))
        assert code == 1, errors


@pytest.mark.slow
async def test_keys_of_a_cluster_are_listed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", ONE)
    operator = tmp_path / OPERATOR
    anna, board = (
        authority.keep(path, Subject(role, name))
        for path, role, name in ((operator, "operator", "anna"), (tmp_path / OWN, "node", "pi-1"))
    )
    service = CredentialServer(authority, (), lambda who, request: nullcontext())
    security = MutualTls(authority.controller(), authority.admits)
    services = [(credential_server.SERVICE, service.add_to)]
    async with serving("127.0.0.1:0", services, 0.0, security=security) as port:
        words = "keys", "--controller", f"127.0.0.1:{port}", "--credentials", str(operator)
        code, out, errors = await ended(await started(*words, insecure=False))
    assert (code, errors) == (0, [])
    found = {tuple(line.split()) for line in out.splitlines()}
    assert {("operator", "anna", anna.key_id[:16]), ("node", "pi-1", board.key_id[:16])} <= found


@pytest.mark.slow
async def test_wait_ends_when_a_controller_appears() -> None:
    """The controller comes later than a search without --wait would end."""
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        found, dialled = (
            await started("nodes", "--wait", "60", "--cluster", ONE),
            await started("nodes", "--wait", "60", "--controller", f"127.0.0.1:{port}"),
        )
        for process, text in (
            (found, f"looking for a controller of cluster '{ONE}' by mDNS on "),
            (dialled, f"waiting for the controller at 127.0.0.1:{port}"),
        ):
            assert process.stderr is not None
            said = (await asyncio.wait_for(process.stderr.readline(), 60)).decode().rstrip()
            assert said.startswith(f"edgenode: {text}")
            assert said.endswith("(Ctrl-C ends this)")
        await asyncio.sleep(5)
        assert (found.returncode, dialled.returncode) == (None, None)
        await stack.enter_async_context(controller(ONE, f"127.0.0.1:{port}"))
        for process in (found, dialled):
            code, out, _ = await ended(process)
            assert (code, out) == (0, "no nodes yet: waiting for 3 more nodes\n")


@pytest.mark.slow
async def test_search_without_a_controller_ends_in_seconds() -> None:
    began = time.monotonic()
    code, out, errors = await ended(await started("status", "--controller", f"127.0.0.1:{free_ports(1)[0]}"))
    assert (code, out, len(errors)) == (1, "", 2)
    assert "(waited 5 s): connection refused: " in errors[-1]
    assert time.monotonic() - began < 50  # a busy machine starts Python slowly
