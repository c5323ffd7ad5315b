"""Operators invite and revoke, and members renew, over real gRPC with TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from edgenode.errors import ConfigError, RemoteProtocolError, SecurityError, TransportError
from edgenode.net import credential_server
from edgenode.net.credential_client import CredentialClient
from edgenode.net.credential_server import CredentialServer
from edgenode.net.rpc import serving
from edgenode.net.tls import MutualTls
from edgenode.security import certificates
from edgenode.security.authority import Authority
from edgenode.security.certificates import Credentials
from edgenode.security.invite import Invite
from edgenode.security.subject import CONTROLLER, Subject

ANNA, N0 = Subject("operator", "anna"), Subject("node", "n0")
TTL = timedelta(minutes=30)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "home")


def enrolled(authority: Authority, subject: Subject) -> Credentials:
    key = certificates.make_key()
    secret = authority.invite(subject.role, subject.name, TTL)
    certificate = authority.enrol(secret, certificates.signing_request(key), subject.name)
    return Credentials(key, certificate, authority.certificate)


@asynccontextmanager
async def served(authority: Authority, noted: list[tuple[str, str]] | None = None) -> AsyncIterator[str]:
    """The credential service of an authority. Yields host:port."""

    def noting(who: str, request: str) -> AbstractAsyncContextManager[None]:
        ([] if noted is None else noted).append((who, request))
        return nullcontext()

    service = CredentialServer(authority, (("10.0.0.1", 7701),), noting)
    security = MutualTls(authority.controller(), authority.admits)
    async with serving("127.0.0.1:0", [(credential_server.SERVICE, service.add_to)], 0, security=security) as port:
        yield f"127.0.0.1:{port}"


def client(target: str, credentials: Credentials) -> CredentialClient:
    return CredentialClient(target, MutualTls(credentials, lambda subject, key_id: True))


async def test_operator_invites_a_device(authority: Authority) -> None:
    async with served(authority) as target:
        line = await client(target, enrolled(authority, ANNA)).invite("node", "n0", 60)
    invite = Invite.parse(line)
    assert (invite.addresses, invite.authority) == ((("10.0.0.1", 7701),), authority.digest[:16])
    authority.enrol(invite.secret, certificates.signing_request(certificates.make_key()), "n0")


@pytest.mark.parametrize(
    ("role", "name", "ttl_s", "reason"),
    [("controller", "", 60, "not a role"), ("node", "../x", 60, "cannot be a name"), ("node", "", 0, "1 s to")],
)
async def test_bad_invite_is_rejected(authority: Authority, role: str, name: str, ttl_s: int, reason: str) -> None:
    async with served(authority) as target:
        with pytest.raises(ConfigError, match=reason):
            await client(target, enrolled(authority, ANNA)).invite(role, name, ttl_s)  # type: ignore[arg-type]


async def test_node_may_not_invite(authority: Authority) -> None:
    async with served(authority) as target:
        reason = (
            r"role node does not permit Invite, which takes the role operator; .* edgenode invite NAME --role operator"
        )
        with pytest.raises(SecurityError, match=reason):
            await client(target, enrolled(authority, N0)).invite("node", "", 60)


async def test_node_renews_its_certificate_and_keeps_its_key(authority: Authority) -> None:
    old = enrolled(authority, N0)
    async with served(authority) as target:
        new = await client(target, old).renew(old, old.key)
    assert (new.subject, new.key_id) == (N0, old.key_id)
    assert new.certificate != old.certificate
    assert authority.revoked() == frozenset()


async def test_node_changes_its_key_and_the_old_one_ends_when_the_new_is_used(authority: Authority) -> None:
    old = enrolled(authority, N0)
    async with served(authority) as target:
        new = await client(target, old).renew(old, certificates.make_key())
        assert new.subject == N0 and new.key_id != old.key_id
        assert await client(target, old).renew(old, new.key)  # the old one is valid until then
        assert authority.revoked() == frozenset()
        again = await client(target, new).renew(new, certificates.make_key())
        assert authority.revoked() == {old.key_id}
        with pytest.raises(SecurityError, match="was revoked or replaced"):
            await client(target, old).renew(old, old.key)
    assert again.key_id == authority.subjects()[N0]


async def test_lost_renewal_is_repeated_after_a_while(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    old = enrolled(authority, N0)
    async with served(authority) as target:
        lost = await client(target, old).renew(old, certificates.make_key())
        with pytest.raises(RemoteProtocolError, match="has not used the new key yet"):
            await client(target, old).renew(old, certificates.make_key())
        monkeypatch.setattr(credential_server, "_UNUSED_S", 0)
        again = await client(target, old).renew(old, certificates.make_key())
    assert authority.revoked() == {lost.key_id}
    assert authority.subjects()[N0] == again.key_id


async def test_limited_number_of_renewals_leaves_revoked_keys(authority: Authority) -> None:
    own, refused = enrolled(authority, N0), 0
    async with served(authority) as target:
        for _ in range(20):
            try:
                own = await client(target, own).renew(own, certificates.make_key())
            except RemoteProtocolError as exc:
                assert "4 times in 24 hours" in str(exc)
                refused += 1
        assert refused == 16 and len(authority.revoked()) <= 4
        other = enrolled(authority, Subject("node", "n1"))  # has renewals of its own
        await client(target, other).renew(other, other.key)


async def test_revoked_operator_may_do_nothing(authority: Authority) -> None:
    anna, bert = enrolled(authority, ANNA), enrolled(authority, Subject("operator", "bert"))
    async with served(authority) as target:
        assert await client(target, bert).revoke(ANNA) == certificates.public_key_id(anna.certificate)
        with pytest.raises(SecurityError, match="was revoked or replaced"):
            await client(target, anna).keys()
        assert await client(target, bert).keys() == {
            CONTROLLER: certificates.public_key_id(authority.controller().certificate),
            bert.subject: certificates.public_key_id(bert.certificate),
        }


async def test_revocation_is_recorded(authority: Authority) -> None:
    enrolled(authority, N0)
    noted: list[tuple[str, str]] = []
    async with served(authority, noted) as target:
        await client(target, enrolled(authority, ANNA)).revoke(N0)
    assert noted == [("operator anna", "revoke node n0")]


async def test_unknown_subject_cannot_be_revoked(authority: Authority) -> None:
    async with served(authority) as target:
        with pytest.raises(RemoteProtocolError, match="node n7 has no key"):
            await client(target, enrolled(authority, ANNA)).revoke(Subject("node", "n7"))


async def test_concurrent_renewals_leave_one_valid_key(authority: Authority) -> None:
    node = enrolled(authority, N0)
    async with served(authority) as target:
        renewals = (client(target, node).renew(node, certificates.make_key()) for _ in range(5))
        renewed = await asyncio.gather(*renewals, return_exceptions=True)
    (newest,) = [one.key_id for one in renewed if isinstance(one, Credentials)]
    assert newest == authority.subjects()[N0] and authority.revoked() == frozenset()


async def test_call_without_a_controller_names_the_address(authority: Authority) -> None:
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1"):
        await client("127.0.0.1:1", enrolled(authority, ANNA)).keys()
