"""Invites work once, keys are replaced and revoked, and the register survives a restart."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.errors import SecurityError
from edgenode.names import PATTERN
from edgenode.security import certificates
from edgenode.security.authority import LOCAL_OPERATOR, Authority
from edgenode.security.certificates import LIFE, Credentials
from edgenode.security.register import CLOCKS
from edgenode.security.secret_files import kept_secret, read_credentials, read_secret, write_credentials, write_secret
from edgenode.security.subject import CONTROLLER, ROLES, Role, Subject

N0 = Subject("node", "n0")
TTL = timedelta(minutes=30)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reopen(tmp_path: Path, clock: Clock) -> Callable[[], Authority]:
    return lambda: Authority(tmp_path / "authority", "home", clock)


def enrolled(authority: Authority, name: str, invited: str = "") -> Credentials:
    secret = authority.invite("node", invited, TTL)
    key = certificates.make_key()
    return Credentials(key, authority.enrol(secret, certificates.signing_request(key), name), authority.certificate)


def test_invited_device_gets_a_certificate_for_its_key(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device = enrolled(authority, "n0")
    certificates.check_issued(device)
    assert device.subject == N0
    assert authority.admits(N0, certificates.public_key_id(device.certificate))


def test_register_survives_a_restart(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device, secret = enrolled(authority, "n0"), authority.invite("node", "n1", TTL)
    again = reopen()
    assert again.certificate == authority.certificate
    assert again.admits(N0, certificates.public_key_id(device.certificate))
    again.enrol(secret, certificates.signing_request(certificates.make_key()), "n1")


def test_invite_is_used_once_also_over_a_restart(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    secret = authority.invite("node", "", TTL)
    request = certificates.signing_request(certificates.make_key())
    authority.enrol(secret, request, "n0")
    for one in (authority, reopen()):
        with pytest.raises(SecurityError, match="used before, or has expired"):
            one.enrol(secret, request, "n1")


def test_crash_in_the_middle_costs_an_invite(reopen: Callable[[], Authority], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is removed from the disk before anything is signed."""
    secret = reopen().invite("node", "", TTL)
    request = certificates.signing_request(certificates.make_key())

    def crash(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(certificates, "issue", crash)
        reopen().enrol(secret, request, "n0")
    with pytest.raises(SecurityError, match="used before, or has expired"):
        reopen().enrol(secret, request, "n0")


def test_invite_expires(reopen: Callable[[], Authority], clock: Clock) -> None:
    secret = reopen().invite("node", "", TTL)
    clock.now += TTL.total_seconds()
    with pytest.raises(SecurityError, match="expired"):
        reopen().enrol(secret, certificates.signing_request(certificates.make_key()), "n0")


def test_secret_is_not_stored(reopen: Callable[[], Authority], tmp_path: Path) -> None:
    secret = reopen().invite("node", "", TTL)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "authority").iterdir())
    assert secret not in stored
    assert secret.hex().encode() not in stored


def test_malformed_request_does_not_use_the_invite_up(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    secret = authority.invite("node", "", TTL)
    with pytest.raises(SecurityError, match="malformed"):
        authority.enrol(secret, b"nothing", "n0")
    authority.enrol(secret, certificates.signing_request(certificates.make_key()), "n0")


def test_taken_name_needs_an_invite_for_that_name(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    old = enrolled(authority, "n0")
    with pytest.raises(SecurityError, match="the name n0 is taken"):
        enrolled(authority, "n0")
    new = enrolled(authority, "n0", invited="n0")
    assert authority.admits(N0, certificates.public_key_id(new.certificate))
    assert authority.revoked() == {certificates.public_key_id(old.certificate)}


def test_invite_for_another_name_is_refused(reopen: Callable[[], Authority]) -> None:
    with pytest.raises(SecurityError, match="is for node n1, not for n0"):
        enrolled(reopen(), "n0", invited="n1")


def test_old_key_is_valid_until_the_renewed_one_is_used(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device, lost, new = enrolled(authority, "n0"), certificates.make_key(), certificates.make_key()
    old = certificates.public_key_id(device.certificate)
    authority.issue(N0, certificates.signing_request(device.key))
    authority.issue(N0, certificates.signing_request(lost))
    renewed = authority.issue(N0, certificates.signing_request(new))
    assert authority.admits(N0, old)
    assert old not in authority.revoked()
    assert reopen().admits(N0, certificates.public_key_id(renewed))
    assert not reopen().admits(N0, old)
    with pytest.raises(SecurityError, match="this key was revoked"):
        reopen().issue(N0, certificates.signing_request(device.key))


def test_key_that_another_process_was_shown_revokes_no_older_one(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device, new = enrolled(authority, "n0"), certificates.make_key()
    renewed = reopen().issue(N0, certificates.signing_request(new))
    old = certificates.public_key_id(device.certificate)
    assert all(authority.vouches_for(N0, key) for key in (old, certificates.public_key_id(renewed)))
    assert not any(authority.vouches_for(Subject("node", "n1"), key) for key in (old, "0" * 64))
    assert authority.revoked() == frozenset()


def test_key_of_one_subject_is_refused_for_another(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device = enrolled(authority, "n0")
    with pytest.raises(SecurityError, match="this key belongs to node n0"):
        authority.issue(Subject("node", "n1"), certificates.signing_request(device.key))


def test_revoked_subject_has_no_valid_key(reopen: Callable[[], Authority]) -> None:
    authority = reopen()
    device = enrolled(authority, "n0")
    key_id = authority.revoke(N0)
    assert key_id == certificates.public_key_id(device.certificate)
    assert not authority.admits(N0, key_id)
    assert not reopen().admits(N0, key_id)
    with pytest.raises(SecurityError, match="node n0 has no key"):
        authority.revoke(N0)


def test_revoked_key_is_forgotten_when_its_certificate_has_expired(
    reopen: Callable[[], Authority], clock: Clock
) -> None:
    clock.now = datetime.now(UTC).timestamp()
    enrolled(reopen(), "n0")
    key = reopen().revoke(N0)
    clock.now += (LIFE + CLOCKS - timedelta(days=1)).total_seconds()
    assert reopen().revoked() == {key}
    clock.now += timedelta(days=2).total_seconds()
    authority = reopen()
    assert authority.revoked() == frozenset()
    authority.invite("node", "n1", TTL)  # what is written next does not have it
    clock.now = 0
    assert reopen().revoked() == frozenset()


def test_renewed_key_is_revoked_for_as_long_as_its_last_certificate(
    reopen: Callable[[], Authority], clock: Clock
) -> None:
    clock.now = datetime.now(UTC).timestamp()
    authority = reopen()
    request = certificates.signing_request(certificates.make_key())
    authority.enrol(authority.invite("node", "n0", TTL), request, "n0", timedelta(days=1))
    authority.issue(N0, request)
    key = authority.revoke(N0)
    clock.now += (LIFE + CLOCKS - timedelta(days=1)).total_seconds()
    assert reopen().revoked() == {key}


def test_register_of_an_older_version_is_read(reopen: Callable[[], Authority], tmp_path: Path, clock: Clock) -> None:
    """It had no times, and names that cannot be ones."""
    keys = {"n0.node.edgenode": ["1" * 64], ".node.edgenode": ["2" * 64], "_2a.node.edgenode": ["3" * 64]}
    old = {"keys": keys, "revoked": ["4" * 64], "invites": {}}
    reopen()
    write_secret(tmp_path / "authority" / "register.json", json.dumps(old).encode())
    authority = reopen()
    assert authority.subjects() == {N0: "1" * 64}
    assert authority.revoked() == {digit * 64 for digit in "234"}
    authority.invite("node", "", TTL)  # which writes it in the form of today
    clock.now += (LIFE + CLOCKS + timedelta(days=1)).total_seconds()
    assert reopen().revoked() == frozenset() and reopen().subjects() == {N0: "1" * 64}


def test_controller_keeps_its_key(reopen: Callable[[], Authority]) -> None:
    assert reopen().controller() == reopen().controller()


def test_two_processes_may_use_one_folder(reopen: Callable[[], Authority]) -> None:
    one, other = reopen(), reopen()
    first, second = one.make(N0), other.make(Subject("node", "n1"))
    for authority in (one, other):
        for device in (first, second):
            assert authority.admits(device.subject, certificates.public_key_id(device.certificate))
    other.revoke(N0)
    assert not one.admits(N0, certificates.public_key_id(first.certificate))


@pytest.mark.parametrize("where", ["register", "invite"])
def test_register_with_an_unknown_field_is_refused(reopen: Callable[[], Authority], tmp_path: Path, where: str) -> None:
    reopen().invite("node", "n0", timedelta(minutes=30))
    path = tmp_path / "authority" / "register.json"
    register = json.loads(path.read_text())
    (register if where == "register" else next(iter(register["invites"].values())))["roles"] = ["operator"]
    path.write_text(json.dumps(register))
    with pytest.raises(SecurityError, match=r"register\.json is damaged: .*unknown field `roles`"):
        reopen()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes for others")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(reopen: Callable[[], Authority], tmp_path: Path) -> None:
    """An operator types sudo edgenode revoke, and the service goes on reading its files."""
    enrolled(reopen(), "n0")
    for path in (tmp_path / "authority", *(tmp_path / "authority").iterdir()):
        os.chown(path, 12345, 12345)
    (tmp_path / "authority" / ".lock").unlink()
    reopen().revoke(N0)
    assert {path.stat().st_uid for path in (tmp_path / "authority").iterdir()} == {12345}


def test_damaged_register_is_refused(reopen: Callable[[], Authority], tmp_path: Path) -> None:
    enrolled(reopen(), "n0")
    write_secret(tmp_path / "authority" / "register.json", b'{"keys": 3}')
    with pytest.raises(SecurityError, match=r"register\.json is damaged"):
        reopen()


def test_files_are_readable_by_their_owner_alone(reopen: Callable[[], Authority], tmp_path: Path) -> None:
    authority = reopen()
    authority.controller()
    enrolled(authority, "n0")
    folder = tmp_path / "authority"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"text")
    assert read_secret(path) == b"text"
    path.chmod(0o640)
    with pytest.raises(SecurityError, match=f"others can read {path}: run chmod 600"):
        read_secret(path)


def test_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "authority"
    Authority(folder, "home")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]
    folder.chmod(0o711)
    with pytest.raises(SecurityError, match=f"others can enter {folder}: run chmod 700 {folder}"):
        Authority(folder, "home")


def test_kept_secret_is_made_once(tmp_path: Path) -> None:
    secret = kept_secret(tmp_path / "token")
    assert (len(secret), kept_secret(tmp_path / "token")) == (32, secret)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_credentials_survive_the_disk_and_damage_is_found(tmp_path: Path) -> None:
    ca = certificates.make_authority("home")
    mine, other = certificates.make_credentials(ca, N0), certificates.make_credentials(ca, N0)
    path = tmp_path / "node.pem"
    write_credentials(path, mine)
    assert read_credentials(path) == mine
    write_credentials(path, Credentials(other.key, mine.certificate, mine.authority))
    with pytest.raises(SecurityError, match=r"node\.pem is damaged: the certificate is for another key"):
        read_credentials(path)


def test_certificate_of_another_authority_is_refused() -> None:
    mine = certificates.make_credentials(certificates.make_authority("home"), N0)
    other = certificates.make_authority("home")
    with pytest.raises(SecurityError, match="not signed by the cluster's authority"):
        certificates.check_issued(Credentials(mine.key, mine.certificate, other.certificate))


NAMES = st.from_regex(PATTERN).filter(lambda name: name != CONTROLLER.name)


@given(st.sampled_from([role for role in ROLES if role != "controller"]), NAMES)
def test_subject_survives_its_dns_name(role: Role, name: str) -> None:
    subject = Subject(role, name)
    assert Subject.parse(subject.dns_name) == subject


@given(NAMES, NAMES)
def test_two_names_never_share_a_dns_name(one: str, other: str) -> None:
    same = Subject("node", one).dns_name.lower() == Subject("node", other).dns_name.lower()
    assert same == (one == other)


NO_NAMES = ["", "*", "../x", "a\0b", "x" * 300, ".x", "a b", "\u20ac", CONTROLLER.name]


@pytest.mark.parametrize("name", NO_NAMES)
def test_nobody_gets_a_name_that_is_none(reopen: Callable[[], Authority], tmp_path: Path, name: str) -> None:
    authority = reopen()
    secret = authority.invite("node", "", TTL)
    request = certificates.signing_request(certificates.make_key())
    before = (tmp_path / "authority" / "register.json").read_bytes()
    with pytest.raises(SecurityError, match="name"):
        authority.enrol(secret, request, name)
    if name:
        with pytest.raises(SecurityError, match="name"):
            authority.invite("node", name, TTL)
    assert (tmp_path / "authority" / "register.json").read_bytes() == before


@pytest.mark.parametrize("subject", [CONTROLLER, LOCAL_OPERATOR], ids=str)
def test_nobody_is_invited_in_the_place_of_this_machine(reopen: Callable[[], Authority], subject: Subject) -> None:
    with pytest.raises(SecurityError, match="this machine's own"):
        reopen().invite(subject.role, subject.name, TTL)


@pytest.mark.parametrize(
    "text",
    ["n0.edgenode", "n0.root.edgenode", "_6e0.node.edgenode", "N0.node.edgenode", "", ".node.edgenode",
     "_2a.node.edgenode", "controller.node.edgenode", f"{'x' * 64}.node.edgenode"],
)  # fmt: skip
def test_other_dns_names_are_refused(text: str) -> None:
    with pytest.raises(SecurityError):
        Subject.parse(text)
