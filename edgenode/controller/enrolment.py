"""The controller's authority at work: its own credentials, those of the operator here, and the enrolment of others.

It is made before the servers start, because they need its credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from edgenode.controller.options import Options
from edgenode.net import credential_server
from edgenode.net.credential_server import CredentialServer, Noting
from edgenode.net.enrolment_server import enrolment_app
from edgenode.net.http import serving_http
from edgenode.net.interfaces import interfaces_for
from edgenode.net.rpc import Services, join_address, split_address
from edgenode.net.tls import MutualTls
from edgenode.security.authority import LOCAL_OPERATOR, Authority
from edgenode.security.certificates import public_key_id

log = structlog.get_logger()

FIRST_INVITES_S = 3600
_CHECK_EVERY_S = 0.2


class Enrolment:
    """Lets devices and operators into one cluster.

    Args:
        state_dir: the controller's. The authority lies in its folder ``authority``, and the credentials of this
            machine's operator in ``operator.pem``.

    Attributes:
        security: of the controller's servers and channels.
        signer: of its records and greetings.
        operator: whoever can read the controller's state folder, and the id of its key.
        admits: whether a key is valid for a subject.

    Raises:
        SecurityError: the files are damaged, readable by others, or cannot be written.
    """

    def __init__(self, state_dir: Path, cluster: str) -> None:
        self._cluster = cluster
        self._authority = Authority(state_dir / "authority", cluster)
        operator = self._authority.keep(state_dir / "operator.pem", LOCAL_OPERATOR)
        self.operator = LOCAL_OPERATOR, public_key_id(operator.certificate)
        self.admits = self._authority.admits
        self.security = MutualTls(self._authority.controller(), self._authority.admits)
        self.signer = self._authority.signer()

    async def watch_revocations(self, revoke: Callable[[frozenset[str]], None]) -> None:
        """Pass on which keys are revoked: those of before the start, of operators, and of devices that enrol again.

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

    @asynccontextmanager
    async def serving(self, options: Options, audit: Noting) -> AsyncIterator[Services]:
        """Serve the enrolment, and open the first invites. Yields the gRPC services that belong to it.

        Args:
            audit: records who invites and revokes.

        Raises:
            ConfigError: the address cannot be bound.
        """
        app, listen = enrolment_app(self._authority), options.enrol_address
        async with serving_http(app, listen, "--enrol", self._authority.controller_file) as url:
            host, port = split_address(listen)[0], split_address(url.rpartition("/")[2])[1]
            addresses = tuple(join_address(address, port) for address in interfaces_for(host))
            server = CredentialServer(self._authority, self._cluster, addresses, audit)
            log.info("devices enrol here", listen=join_address(host, port))
            for _ in range(options.invites):
                options.show_invite(str(server.open_invite("node", "", FIRST_INVITES_S)))
            yield [(credential_server.SERVICE, server.add_to)]
