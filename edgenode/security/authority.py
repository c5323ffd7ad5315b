"""The register of a cluster's keys, with its CA, on the controller's disk.

1. One key is valid for each subject. An enrolment revokes the older key at once. A renewal leaves it valid until the
   new key is used, because the answer with the new certificate may be lost.
2. An invite is used once. It is removed from the disk before anything is signed: a crash in between costs an invite,
   and never gives two certificates.
3. Every change is on the medium before it takes effect.
4. Several processes may use one folder: the controller, and `edgenode cert` next to it. A lock on a file orders their
   changes, and each begins with what is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from edgenode.errors import SecurityError
from edgenode.security import certificates
from edgenode.security.certificates import LIFE, Credentials
from edgenode.security.invite import hashed, make_secret
from edgenode.security.register import Invited, Register, decoded, encoded
from edgenode.security.secret_files import (
    check_private_folder,
    is_due,
    locked,
    read_credentials,
    read_secret,
    write_credentials,
    write_secret,
)
from edgenode.security.signing import AuthoritySigner
from edgenode.security.subject import CONTROLLER, Role, Subject

_CA, _OWN, _REGISTER, _LOCK = "authority.pem", "controller.pem", "register.json", ".lock"
MAX_INVITES = 1024
LOCAL_OPERATOR = Subject("operator", "local")
"""The subject of everybody who can read the controller's state folder."""


class Authority:
    """Issues, renews and revokes the certificates of one cluster.

    Making it, and every method, raises SecurityError if the folder or a file is damaged, readable by others, or cannot
    be written.

    Args:
        folder: the folder of the CA and the register. The first start makes it, and only its owner can read it.
        now: the clock, in seconds since 1970.

    Attributes:
        controller_file: the file of the controller's key and certificate.
    """

    def __init__(self, folder: Path, cluster: str, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now, self._read_ns = folder, now, 0
        self.controller_file = folder / _OWN
        check_private_folder(folder)
        found = read_credentials(folder / _CA)
        if found is None:
            found = certificates.make_authority(cluster)
            write_credentials(folder / _CA, found)
        self._ca, self._register = found, self._read_register()

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        return self._ca.certificate

    @property
    def digest(self) -> bytes:
        """SHA-256 over the CA's certificate (DER)."""
        return certificates.digest(self.certificate)

    def signer(self) -> AuthoritySigner:
        """The signer of the records and greetings of this cluster's controller."""
        return AuthoritySigner(self._ca)

    def revoked(self) -> frozenset[str]:
        """The ids of all revoked keys, those that another process has revoked included."""
        self._reread()
        return frozenset(self._register.revoked_at(self._now()))

    def subjects(self) -> dict[Subject, str]:
        """The id of the valid key of each subject, the newest during a renewal."""
        keys = sorted(self._register.keys.items())
        return {Subject.parse(dns_name): tuple(own)[-1] for dns_name, own in keys}

    def pending(self, subject: Subject) -> str:
        """The id of the key of a renewal that the subject has not used yet. Empty if there is none."""
        return "".join(self._register.keys_of(subject)[1:])

    def controller(self) -> Credentials:
        """The controller's own credentials: those on disk, or new ones near the end of their life."""
        return self.keep(self.controller_file, CONTROLLER)

    def admits(self, subject: Subject, key_id: str) -> bool:
        """Return whether a key that a subject shows is valid. The first use of a renewed key revokes the older one."""
        if self._register.keys_of(subject) == (key_id,) and not self._is_stale():
            return True
        with self._changing() as register:
            keys = register.keys_of(subject)
            if key_id in keys[1:]:
                self._write(register.with_keys(subject, key_id))
        return key_id in keys

    def vouches_for(self, subject: Subject, key_id: str) -> bool:
        """Return whether a key is valid for a subject that has shown it to another process.

        That revokes no older key: it is not known here whether the subject has shown this one.
        """
        self._reread()
        return key_id in self._register.keys_of(subject)

    # --- invites ------------------------------------------------------------------------------------

    def invite(self, role: Role, name: str, ttl: timedelta) -> bytes:
        """Open an invite. Return its secret, which is stored nowhere.

        Args:
            name: the name that it is for. If it is empty, the device chooses a free name.

        SecurityError if the subject cannot have the name, or if there are MAX_INVITES.
        """
        subject = Subject(role, name) if name else None
        if subject in (CONTROLLER, LOCAL_OPERATOR):
            raise SecurityError(f"{subject} is this machine's own: choose another name")
        now, secret = self._now(), make_secret()
        with self._changing() as register:
            open_invites = {key: invited for key, invited in register.invites.items() if invited.expires > now}
            if len(open_invites) >= MAX_INVITES:
                raise SecurityError(f"there are {MAX_INVITES} open invites: wait until some expire")
            open_invites[hashed(secret)] = Invited(role, name, now + ttl.total_seconds())
            self._write(replace(register, invites=open_invites))
        return secret

    def enrol(self, secret: bytes, request: bytes, name: str, life: timedelta = LIFE) -> bytes:
        """Use an invite: issue a certificate for the key of a CSR. Revokes the subject's older key.

        Args:
            name: the device's own choice. It must agree with the invite. "" takes the name of the invite.

        Raises:
            SecurityError: the invite is unknown, used or expired, the name is not the invited, cannot be a name or is
                taken, or the request is malformed. Only a request that is otherwise right uses the invite up.
        """
        with self._changing() as register:
            subject = self._invited(register, secret, name)
            key_id = certificates.requested_key_id(request)
            invites = {key: other for key, other in register.invites.items() if key != hashed(secret)}
            self._write(replace(register, invites=invites).with_keys(subject, key_id, expires=_expiry(life)))
        return certificates.issue(self._ca, request, subject, life)

    def _invited(self, register: Register, secret: bytes, name: str) -> Subject:
        """Return the subject that an invite lets in."""
        invited = register.invites.get(hashed(secret))
        if invited is None or invited.expires <= self._now():
            raise SecurityError("the invite is not valid: it was used before, or has expired; ask for another one")
        if not (invited.name or name):
            raise SecurityError("the invite is for a device that chooses its name")
        subject = Subject(invited.role, invited.name or name)
        if name not in ("", subject.name):
            raise SecurityError(f"the invite is for {subject}, not for {name}: start it with --name {subject.name}")
        if not invited.name and subject.dns_name in register.keys:
            raise SecurityError(
                f"the name {name} is taken: choose another --name, or ask for an invite for this name if the device is "
                f"the same one (edgenode invite {name})"
            )
        return subject

    # --- keys ---------------------------------------------------------------------------------------

    def issue(self, subject: Subject, request: bytes, life: timedelta = LIFE) -> bytes:
        """Issue a certificate to a subject that the caller has authenticated, for its key or for a new one.

        SecurityError if the request is malformed, or its key was revoked.
        """
        key_id = certificates.requested_key_id(request)
        with self._changing() as register:
            current = register.keys_of(subject)[:1]
            self._write(register.with_keys(subject, *current, key_id, expires=_expiry(life)))
        return certificates.issue(self._ca, request, subject, life)

    def make(self, subject: Subject, life: timedelta = LIFE) -> Credentials:
        """A new key and its certificate, made here: for an operator on this machine, or to be copied to a device.

        Revokes the subject's older key.
        """
        made = certificates.make_credentials(self._ca, subject, life)
        with self._changing() as register:
            self._write(register.with_keys(subject, made.key_id, expires=made.expires().timestamp()))
        return made

    def keep(self, path: Path, subject: Subject) -> Credentials:
        """Return the credentials in a file, or new ones if there are none, or if they are due or not valid any more."""
        own = read_credentials(path)
        if own is None or own.authority != self.certificate or is_due(path) or not self._is_of(own, subject):
            own = self.make(subject)
            write_credentials(path, own)
        return own

    def renew(self, path: Path, subject: Subject) -> Credentials:
        """Another certificate for the key in a file, which must be a valid one of the subject in this cluster."""
        own = read_credentials(path)
        if own is None:
            raise SecurityError(f"{path} does not exist: make one with edgenode cert issue {subject.name}")
        if own.authority != self.certificate or not self._is_of(own, subject):
            raise SecurityError(f"{path} is not of {subject} in this cluster, or its key was revoked or replaced")
        certificate = self.issue(subject, certificates.signing_request(own.key))
        renewed = Credentials(own.key, certificate, self.certificate)
        write_credentials(path, renewed)
        return renewed

    def _is_of(self, own: Credentials, subject: Subject) -> bool:
        return own.subject == subject and self.admits(subject, certificates.public_key_id(own.certificate))

    def revoke(self, subject: Subject) -> str:
        """Revoke the keys of a subject. Return the id of the newest. SecurityError if it has none."""
        with self._changing() as register:
            if not (revoked := register.keys_of(subject)):
                raise SecurityError(f"{subject} has no key")
            self._write(register.without(subject))
        return revoked[-1]

    # --- the file -----------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Register]:
        """Lock the register against other processes, and yield what is on the disk."""
        with locked(self._folder / _LOCK):
            self._register = self._read_register()
            yield self._register

    def _reread(self) -> None:
        """Read the register, if another process has changed it."""
        if self._is_stale():
            with self._changing():
                pass

    def _is_stale(self) -> bool:
        """Return whether another process has changed the register."""
        try:
            return (self._folder / _REGISTER).stat().st_mtime_ns != self._read_ns
        except FileNotFoundError:
            return False

    def _read_register(self) -> Register:
        path = self._folder / _REGISTER
        with suppress(FileNotFoundError):
            self._read_ns = path.stat().st_mtime_ns
        content = read_secret(path)
        if content is None:
            return Register()
        try:
            return decoded(content, self._now())
        except ValueError as exc:  # msgspec's errors are ValueErrors
            raise SecurityError(f"{path} is damaged: {exc}") from exc

    def _write(self, register: Register) -> None:
        write_secret(self._folder / _REGISTER, encoded(register, self._now()))
        self._register = register
        self._read_ns = (self._folder / _REGISTER).stat().st_mtime_ns


def _expiry(life: timedelta) -> float:
    """The time at which a certificate that is issued now expires."""
    return certificates.end_of_life(life).timestamp()
