"""Issues the credentials of the controller and of the operator on this machine, and enrols others.

It is made before the servers start, because they need its credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from edgenode.addresses import join_address, split_address
from edgenode.controller.controller_options import ControllerOptions
from edgenode.errors import SecurityError
from edgenode.net.credential_server import CredentialServer, Noting
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.interfaces import address_for_others
from edgenode.net.tls import MutualTls
from edgenode.security.authority import LOCAL_OPERATOR, Authority
from edgenode.security.certificates import public_key_id
from edgenode.security.invite import OPEN_S
from edgenode.security.local import OPERATOR
from edgenode.security.secret_files import is_due
from edgenode.security.subject import CONTROLLER

log = structlog.get_logger()

_CHECK_EVERY_S = 0.2
_RENEW_EVERY_S = 60.0


class Enrolment:
    """Lets devices and operators into one cluster.

    Args:
        state_dir: the controller's folder. It has the authority in ``authority``, and the credentials of this
            machine's operator in ``operator.pem``.

    Attributes:
        security: the credentials of the controller's servers and channels.
        signer: signs the controller's records and greetings.
        is_new: this start has made the authority.
        operator: the operator on this machine, and the id of its key.
        admits: returns whether a key is valid for a subject.

    Raises:
        SecurityError: the files are damaged, readable by others, or cannot be written.
    """

    def __init__(self, state_dir: Path, cluster: str) -> None:
        self.is_new = not (state_dir / "authority").exists()
        self._authority = Authority(state_dir / "authority", cluster)
        self._operator_file = state_dir / OPERATOR
        operator = self._authority.keep(self._operator_file, LOCAL_OPERATOR)
        self.operator = LOCAL_OPERATOR, public_key_id(operator.certificate)
        self.admits = self._authority.admits
        self.security = MutualTls(self._authority.controller(), self._authority.admits)
        self.signer = self._authority.signer()

    async def watch_revocations(self, revoke: Callable[[frozenset[str]], None]) -> None:
        """Pass on the revoked keys: at the start, by operators, and by devices that enrol again.

        The register is on disk, and other processes may change it, too.
        """
        known = frozenset[str]()
        while True:
            revoked = await asyncio.to_thread(self._authority.revoked)
            if new := revoked - known:
                self.security.revoke(new)
                revoke(new)
            known = revoked
            await asyncio.sleep(_CHECK_EVERY_S)

    async def keep_renewed(self, check_s: float = _RENEW_EVERY_S) -> None:
        """Renew the certificates of the controller and of the operator here, as long as it runs.

        Both keep their keys until the next start.
        """
        while True:
            await asyncio.sleep(check_s)
            for path, subject in ((self._authority.controller_file, CONTROLLER), (self._operator_file, LOCAL_OPERATOR)):
                try:
                    if await asyncio.to_thread(is_due, path):
                        renewed = await asyncio.to_thread(self._authority.renew, path, subject)
                        log.info("renewed a certificate", subject=str(subject), expires=str(renewed.expires()))
                        if subject == CONTROLLER:
                            self.security.renew(renewed)
                except SecurityError as exc:
                    log.warning("cannot renew a certificate", subject=str(subject), reason=str(exc))

    @asynccontextmanager
    async def serving(self, options: ControllerOptions, audit: Noting) -> AsyncIterator[CredentialServer]:
        """Serve the enrolment. Yields the gRPC service that belongs to it.

        Args:
            audit: records who invites and revokes.

        Raises:
            ConfigError: the address cannot be bound.
        """
        app, listen = enrolment_app(self._authority), options.enrol_address
        async with serving_http(app, listen, "--enrol", self._authority.controller_file) as url:
            host, port = split_address(listen)[0], split_address(url.rpartition("/")[2])[1]
            log.info("devices enrol here", listen=join_address(host, port))
            addresses = ((address_for_others(host), port),)
            yield CredentialServer(self._authority, addresses, audit, options.public)


def invite_first(server: CredentialServer, options: ControllerOptions) -> None:
    """Show the first invites, or log how to get one."""
    for _ in range(options.invites):
        options.show_invite(str(server.open_invite("node", "", OPEN_S)))
    if not options.invites:
        log.info("to let a device in, type this here", command=options.invite_command)
