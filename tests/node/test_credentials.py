"""A node uses an invite once. What it needs later is its certificate, and an invite that stays in place is ignored."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode.addresses import split_address
from edgenode.config.load import load
from edgenode.errors import ConfigError, EdgenodeError, NotAdmitted, SecurityError
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.tls import MutualTls, Security
from edgenode.node.controller_address import kept_controller_address
from edgenode.node.credentials import enrolled_again, node_security, read_invite
from edgenode.node.node_options import NodeOptions, node_options
from edgenode.security.authority import Authority
from edgenode.security.certificates import Credentials, fingerprint
from edgenode.security.invite import Invite
from edgenode.security.public_address import PublicAddress
from edgenode.security.secret_files import write_credentials
from edgenode.security.subject import Subject

CLUSTER = "home"
INVITE = Invite(bytes(10), bytes(16), (("10.0.0.5", 7701),))
IGNORED = "this node is enrolled already: it needs the invite only if its certificate is refused"
OF_CONTROLLER = "enrolled a device", "refused to enrol a device"
REVOKED = NotAdmitted("the key of node n0 is not valid: it was revoked")


class Home:
    """A controller's authority, with its enrolment service while it is served."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, CLUSTER)
        self.authority.controller()
        self.address = "127.0.0.1:1"

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        app, own = enrolment_app(self.authority, refused_s=0), self.authority.controller_file
        async with serving_http(app, "127.0.0.1:0", "--enrol", own) as url:
            self.address = url.removeprefix("https://")
            yield

    def invite(self, name: str = "") -> str:
        secret = self.authority.invite("node", name, timedelta(minutes=1))
        return str(Invite(secret, fingerprint(self.authority.certificate), (split_address(self.address),)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "authority")


@pytest.fixture
def options(tmp_path: Path) -> NodeOptions:
    config = load(None, {"run.cluster": CLUSTER}, environ={})
    return node_options(config, "n0", listen="127.0.0.1:0", state_dir=tmp_path / "n0")


async def start(options: NodeOptions, join: str | None) -> tuple[Credentials, list[str]]:
    """The credentials that a node starts with, and what it logs."""
    with capture_logs() as logs:
        security = await asyncio.to_thread(node_security, replace(options, join=join))
    assert isinstance(security, MutualTls)
    return security.credentials, [line["event"] for line in logs if line["event"] not in OF_CONTROLLER]


async def test_invite_that_stays_in_place_is_ignored_at_the_next_start(home: Home, options: NodeOptions) -> None:
    async with home.served():
        invite = home.invite()
        first, logs = await start(options, invite)
        assert logs == ["enrolled: from now on, no invite is needed"]
        assert await start(options, invite) == (first, [IGNORED])
        assert await start(options, None) == (first, [])
    assert await start(options, invite) == (first, [IGNORED])  # the controller is away


async def test_node_keeps_the_address_that_its_last_invite_names(home: Home, options: NodeOptions) -> None:
    async with home.served():
        port = split_address(home.address)[1]
        afar = replace(Invite.parse(home.invite()), public=PublicAddress("run.invalid", 7750, port))
        await start(options, str(afar))  # the name does not resolve here
        assert kept_controller_address(options.state_dir) == "run.invalid:7750"
        options.credentials.unlink()
        await start(options, home.invite("n0"))
        assert kept_controller_address(options.state_dir) == ""


@pytest.mark.parametrize("left", ["gone", "inv-typo", "-"])
async def test_node_with_a_certificate_needs_no_legible_invite(
    home: Home, options: NodeOptions, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with home.served():
        (tmp_path / "gone").write_text(home.invite())
        first, _ = await start(options, str(tmp_path / "gone"))
    (tmp_path / "gone").unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert await start(options, str(tmp_path / left) if left == "gone" else left) == (first, [IGNORED])


async def test_invite_of_a_reinstalled_controller_enrols_again(
    home: Home, options: NodeOptions, tmp_path: Path
) -> None:
    other = Home(tmp_path / "reinstalled")
    async with home.served(), other.served():
        await start(options, home.invite())
        again, _ = await start(options, other.invite())
    assert again.authority == other.authority.certificate


@pytest.mark.parametrize("fault", ["expired", "of another node", "damaged"])
async def test_certificate_that_does_not_serve_is_replaced(home: Home, options: NodeOptions, fault: str) -> None:
    subject = Subject("node", "n1" if fault == "of another node" else "n0")
    old = home.authority.make(subject, timedelta(days=-1 if fault == "expired" else 1))
    write_credentials(options.credentials, old)
    if fault == "damaged":
        options.credentials.write_bytes(b"torn")
    async with home.served():
        new, _ = await start(options, home.invite("n0"))
    assert new.subject == Subject("node", "n0") and new.key_id != old.key_id


async def test_used_invite_of_a_node_without_a_certificate_is_refused(home: Home, options: NodeOptions) -> None:
    async with home.served():
        invite = home.invite()
        await start(options, invite)
        options.credentials.unlink()
        with pytest.raises(NotAdmitted, match="it was used before, or has expired"):
            await start(options, invite)


async def start_again(options: NodeOptions, join: str) -> tuple[Security | EdgenodeError, list[tuple[str, str]]]:
    """What a revoked node continues with, and what it logs: events and reasons."""
    with capture_logs() as logs:
        try:
            found: Security | EdgenodeError = await asyncio.to_thread(
                enrolled_again, replace(options, join=join), REVOKED
            )
        except EdgenodeError as exc:
            found = exc
    return found, [(line["event"], line["reason"]) for line in logs if line["event"] not in OF_CONTROLLER]


async def test_revocation_and_not_the_used_invite_is_named(home: Home, options: NodeOptions) -> None:
    """A board is started with the command that it was always started with, after its key was revoked."""
    async with home.served():
        invite = home.invite()
        await start(options, invite)
        assert await start_again(options, invite) == (REVOKED, [])


async def test_new_invite_of_a_revoked_node_is_logged_once(home: Home, options: NodeOptions) -> None:
    async with home.served():
        await start(options, home.invite())
        security, logs = await start_again(options, home.invite("n0"))
    assert isinstance(security, MutualTls)
    assert logs == [("enrolled again, because the certificate was not valid any more", str(REVOKED))]


async def test_revoked_node_without_its_invite_is_told_why_it_needs_one(home: Home, options: NodeOptions) -> None:
    async with home.served():
        await start(options, home.invite())
    error, logs = await start_again(options, "gone")
    assert isinstance(error, ConfigError) and "'gone' is neither an invite nor a file" in str(error)
    assert logs == [("this node needs an invite, because its certificate is not valid any more", str(REVOKED))]


@pytest.mark.parametrize(("typed", "error"), [("inv-typo", SecurityError), ("no/such/file", ConfigError)])
async def test_illegible_invite_is_refused(options: NodeOptions, typed: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="invite"):
        await start(options, typed)


def test_an_invite_is_read_from_each_of_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "invite"
    file.write_text(f"\n{INVITE}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"edgenode run --join {INVITE}\n"))
    assert [read_invite(text) for text in (str(INVITE), str(file), "-")] == [INVITE] * 3
    typed = io.StringIO(f"edgenode run --name pi-3 \\\n  --join {INVITE}\nls\n")
    monkeypatch.setattr("sys.stdin", typed)
    assert (read_invite("-"), typed.readline()) == (INVITE, "ls\n")  # what follows is not the command's


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty; run edgenode invite NAME where the controller runs, and copy its line"),
        (" \n", "it is empty; run edgenode invite NAME"),
        ("hello", "this is not an invite: one begins with inv-"),
        ("inv-abc", "the invite has a typing error"),
    ],
)
def test_a_file_without_an_invite_is_named(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "invite"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"^--join: '{file}' is neither an invite nor a file .* one: {reason}"):
        read_invite(str(file))


def test_standard_input_without_an_invite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match=r"^--join: standard input is neither an invite .*: it is empty"):
        read_invite("-")


def test_an_empty_invite_is_named() -> None:
    """As of a variable that is not set, or of `--join "$(cat invite)"` with an empty file."""
    with pytest.raises(ConfigError, match=r"^--join: '' is neither an invite nor a file .*: it is empty; run edgenode"):
        read_invite("")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither an invite nor a file that contains one: No such file or directory"):
        read_invite(str(tmp_path / "absent"))
