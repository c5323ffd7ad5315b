"""A relay from its invite to its end, against a real enrolment and a real registry."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from edgenode.addresses import split_address
from edgenode.core.protocol.relays import RelayAddress
from edgenode.errors import ConfigError, NotAdmitted
from edgenode.net import relay_registry
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.relay_client import Inbound, Relay, wait_at
from edgenode.net.relay_registry import RelayRegistry
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.node.controller_address import kept_controller_address
from edgenode.node.relay_process import RelayOptions, RelayProcess, _credentials, run_relay
from edgenode.security.authority import Authority
from edgenode.security.certificates import fingerprint
from edgenode.security.invite import Invite
from edgenode.security.public_address import PublicAddress
from edgenode.security.subject import Role, Subject
from tests.net.peer_ends import until

ANY = "127.0.0.1:0"
PUBLIC = PublicAddress("run.example.org", 7700, 7701)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path / "authority", "home")
    authority.controller()
    return authority


def an_invite(authority: Authority, address: str, role: Role = "relay", public: PublicAddress | None = None) -> str:
    secret = authority.invite(role, "fra", timedelta(minutes=30))
    return str(Invite(secret, fingerprint(authority.certificate), (split_address(address),), public))


@asynccontextmanager
async def enrolment(authority: Authority) -> AsyncIterator[str]:
    async with serving_http(enrolment_app(authority), ANY, "--enrol", authority.controller_file) as url:
        yield url.removeprefix("https://")


async def test_invite_names_the_relay_and_its_controller(authority: Authority, tmp_path: Path) -> None:
    async with enrolment(authority) as address:
        options = RelayOptions(ANY, tmp_path / "relay", join=an_invite(authority, address, public=PUBLIC))
        own = await asyncio.to_thread(_credentials, options)
        assert own.subject == Subject("relay", "fra")
        assert kept_controller_address(options.state_dir) == "run.example.org:7700"
        again = RelayOptions(ANY, tmp_path / "relay", join="/no/such/file")
        assert await asyncio.to_thread(_credentials, again) == own
        assert await asyncio.to_thread(_credentials, RelayOptions(ANY, tmp_path / "relay")) == own


@pytest.mark.parametrize(
    ("public", "listen", "expected"),
    [
        ("", "[::1]:7702", "[::1]:7702"),
        ("relay.example.org", "0.0.0.0:7702", "relay.example.org:7702"),
        ("relay.example.org:443", "0.0.0.0:7702", "relay.example.org:443"),
        ("2001:db8::1", "[::]:7702", "[2001:db8::1]:7702"),
        ("[2001:db8::1]:443", "[::]:7702", "[2001:db8::1]:443"),
    ],
)
def test_address_for_members(tmp_path: Path, public: str, listen: str, expected: str) -> None:
    assert RelayOptions(listen, tmp_path, public).address_at(7702, "127.0.0.1:7700") == expected


def test_relay_on_the_controllers_machine_has_an_address_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenode.node.relay_process.address_for_others", lambda host: "192.0.2.7")
    for controller in ("127.0.0.1:7700", "localhost:7700", "[::1]:7700"):
        assert RelayOptions("0.0.0.0:7702", tmp_path).address_at(7702, controller) == "192.0.2.7:7702"
    assert RelayOptions("127.0.0.1:7702", tmp_path).address_at(7702, "127.0.0.1:7700") == "127.0.0.1:7702"


@pytest.mark.parametrize("public", ["localhost", "0.0.0.0", "a b", "host:x"])
def test_address_that_nobody_can_dial_is_refused(tmp_path: Path, public: str) -> None:
    with pytest.raises(ConfigError):
        RelayOptions(ANY, tmp_path, public).address_at(7702, "127.0.0.1:7700")


def test_relay_without_certificate_says_how_to_get_one(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run edgenode invite NAME --role relay where the controller runs"):
        run_relay(RelayOptions(ANY, tmp_path / "relay"))
    options = RelayOptions(ANY, tmp_path / "node", controller=ANY)
    authority.keep(options.credentials, Subject("node", "n0"))
    with pytest.raises(ConfigError, match="is the certificate of node n0: choose another --state-dir"):
        run_relay(options)
    options = RelayOptions(ANY, tmp_path / "copied")
    authority.keep(options.credentials, Subject("relay", "fra"))
    with pytest.raises(ConfigError, match="name it with --controller HOST:PORT"):
        run_relay(options)


async def test_invite_of_a_node_makes_no_relay(authority: Authority, tmp_path: Path) -> None:
    async with enrolment(authority) as address:
        options = RelayOptions(ANY, tmp_path / "relay", join=an_invite(authority, address, "node", PUBLIC))
        with pytest.raises(ConfigError, match="is for node fra, not for a relay"):
            await asyncio.to_thread(_credentials, options)
        assert not options.credentials.exists() and not kept_controller_address(options.state_dir)


@pytest.mark.slow
async def test_nodes_that_the_controller_names_wait_at_the_relay(authority: Authority, tmp_path: Path) -> None:
    names = frozenset({"n0"})
    own = MutualTls(authority.controller(), lambda subject, key_id: True)
    registry = RelayRegistry(lambda: names, frozenset, lambda: None)
    async with serving(ANY, [(relay_registry.SERVICE, registry.add_to)], 0.0, security=own) as port:
        options = RelayOptions(ANY, tmp_path / "relay", controller=f"127.0.0.1:{port}")
        made = authority.keep(options.credentials, Subject("relay", "fra"))
        running = asyncio.create_task(RelayProcess(options, made).run())
        try:
            await until(lambda: bool(registry.order.relays))
            (found,) = registry.order.relays
            assert found == RelayAddress("fra", found.address, made.key_id)
            at = Relay("fra", found.address, Subject("relay", "fra").dns_name)
            met = asyncio.Event()
            waiting = asyncio.create_task(wait_at(at, _a_node(authority, "n0"), Inbound("127.0.0.1:1"), met.set))
            await asyncio.wait_for(met.wait(), 5)
            with pytest.raises(Exception, match="fra relays between members only"):
                await wait_at(at, _a_node(authority, "n9"), Inbound("127.0.0.1:1"), lambda: None)
            authority.revoke(Subject("relay", "fra"))
            own.revoke([made.key_id])
            with pytest.raises(NotAdmitted, match="edgenode invite fra --role relay"):
                await asyncio.wait_for(running, 5)
            waiting.cancel()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def _a_node(authority: Authority, name: str) -> Identity:
    own = authority.make(Subject("node", name))
    return Identity("home", name, "run", security=MutualTls(own, lambda subject, key_id: True))


_REFUSED = """
import sys
from edgenode.cli.relay import relay
from edgenode.errors import ConfigError
try:
    relay.main(["--state-dir", sys.argv[1]])  # without an invite
except ConfigError:
    print({"edgenode.node.relay_process", "torch", "numpy", "rich.console"} & set(sys.modules))
"""


@pytest.mark.slow
def test_relay_loads_nothing_that_calculates_or_draws(tmp_path: Path) -> None:
    """numpy takes 11 MB and rich 4, and a relay has 100 MB for 100 edges."""
    run = subprocess.run([sys.executable, "-c", _REFUSED, tmp_path], capture_output=True, text=True, check=True)
    assert run.stdout == "{'edgenode.node.relay_process'}\n"
