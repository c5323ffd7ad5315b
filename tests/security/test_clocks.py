"""No clock that is wrong locks a device out for ever: a board without a battery starts in 1970."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgenode.security import certificates
from edgenode.security.authority import Authority
from edgenode.security.certificates import Credentials
from edgenode.security.secret_files import is_due, write_credentials
from edgenode.security.subject import Subject

N0 = Subject("node", "n0")
EPOCH = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)


def accepted(own: Credentials, now: datetime) -> bool:
    """Whether a peer whose clock shows this time takes a certificate."""
    certificate, ca = (x509.load_pem_x509_certificate(pem) for pem in (own.certificate, own.authority))
    if not all(one.not_valid_before_utc <= now <= one.not_valid_after_utc for one in (certificate, ca)):
        return False
    certificate.verify_directly_issued_by(ca)
    return True


def set_clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr(certificates, "datetime", Clock)


def test_device_in_1970_takes_certificates_of_today() -> None:
    own = certificates.make_credentials(certificates.make_authority("home"), N0)
    assert accepted(own, EPOCH) and accepted(own, datetime.now(UTC))
    assert not accepted(own, datetime.now(UTC) + timedelta(days=91))


def test_certificates_of_a_controller_in_1970_are_valid_when_it_knows_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as then:
        set_clock(then, EPOCH)
        own = certificates.make_credentials(certificates.make_authority("home"), N0)
    assert accepted(own, EPOCH) and accepted(own, datetime.now(UTC))


def test_device_that_enrolled_in_1970_renews_when_it_knows_the_time(tmp_path: Path) -> None:
    path = tmp_path / "credentials.pem"
    write_credentials(path, certificates.make_credentials(certificates.make_authority("home"), N0))
    os.utime(path, (300, 300))
    assert not is_due(path, lambda: 400)
    assert is_due(path)


def test_key_in_a_file_gets_another_certificate(tmp_path: Path) -> None:
    authority, path = Authority(tmp_path / "authority", "home"), tmp_path / "n0.pem"
    old = authority.keep(path, N0)
    new = authority.renew(path, N0)
    assert new.certificate != old.certificate and new.key_id == old.key_id
    assert authority.keep(path, N0) == new
    assert authority.revoked() == frozenset()
