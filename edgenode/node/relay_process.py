"""The process of a relay: members that nobody can dial wait at it. It takes no part in the run, and trains nothing.

It keeps a link to the controller, which names it to the nodes, and names to it the nodes that may use it. While the
controller is away, it relays on between those that it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from edgenode.addresses import join_address, split_address
from edgenode.core.wording import counted
from edgenode.errors import ConfigError, EdgenodeError, NotAdmitted, first_cause
from edgenode.net import relay_server
from edgenode.net.enrolment_client import enrol
from edgenode.net.interfaces import WILDCARDS, address_for_others, is_loopback
from edgenode.net.reasons import expired
from edgenode.net.relay_limits import HOSTED_CALLS, HOSTED_OF_A_MEMBER, RelayLimits
from edgenode.net.relay_registration import register
from edgenode.net.relay_server import RelayServer
from edgenode.net.retry import Backoff, Outage, stay_connected
from edgenode.net.rpc import address_towards, serving
from edgenode.net.tls import MutualTls
from edgenode.net.wire import Identity
from edgenode.node.background import in_background
from edgenode.node.controller_address import keep_controller_address, kept_controller_address
from edgenode.node.credentials import read_invite
from edgenode.node.renewal import keep_renewed
from edgenode.node.standing import Standing
from edgenode.observability.systemd import Notifier
from edgenode.security.certificates import Credentials, cluster_of, fingerprint
from edgenode.security.local import OWN
from edgenode.security.public_address import checked_host, split_public
from edgenode.security.secret_files import read_credentials, write_credentials
from edgenode.storage.state_folder import claimed, require_no_file

log = structlog.get_logger()

_BACKOFF = Backoff(initial_s=0.1, max_s=2.0, jitter_s=0.5)


@dataclass(frozen=True)
class RelayOptions:
    """The options of a relay.

    Attributes:
        public: HOST or HOST:PORT where members dial it. Empty for its address towards the controller, or, on the
            controller's machine, towards the internet.
        controller: host:port. Empty for that of the invite.
        most_gb: the most gigabytes that it carries for one node. None for no limit.
        join: an invite, used if there is no valid certificate.
    """

    listen: str
    state_dir: Path
    public: str = ""
    controller: str = ""
    most_gb: float | None = None
    join: str | None = None

    @property
    def credentials(self) -> Path:
        """The file with the relay's key and certificate."""
        return self.state_dir / OWN

    def address_at(self, port: int, controller: str) -> str:
        """host:port where members dial a relay that listens at a port.

        Raises:
            ConfigError: no other machine can dial ``public``.
            TransportError: there is no route to the controller.
        """
        if self.public:
            host, forwarded = split_public(self.public)
            return join_address(checked_host(host), forwarded or port)
        host = split_address(self.listen)[0]
        if host in WILDCARDS and is_loopback(host := address_towards(controller)):  # the controller's own machine
            host = address_for_others("")
        return join_address(host, port)


class RelayProcess:
    """One relay, from its start to its end."""

    def __init__(self, options: RelayOptions, own: Credentials) -> None:
        self._options, self._security = options, MutualTls(own, lambda subject, key_id: True)
        self._identity = Identity(cluster_of(own.authority), own.subject.name, "", security=self._security)
        self._nodes = frozenset[str]()
        most = None if options.most_gb is None else round(options.most_gb * 1e9)
        limits = RelayLimits(HOSTED_CALLS, HOSTED_OF_A_MEMBER, most_bytes=most)
        self._server = RelayServer(self._identity, lambda node: "", lambda node: node in self._nodes, limits)
        self._controller = options.controller or kept_controller_address(options.state_dir)
        self._outage = Outage(lambda since_s, why: log.warning("cannot reach the controller", since_s=since_s, why=why))

    async def run(self) -> None:
        """Relay until cancelled.

        Raises:
            ConfigError: the address cannot be bound, or no controller is known.
            RemoteProtocolError: the controller refuses this relay.
            NotAdmitted: the key is not valid any more.
        """
        if not self._controller:
            raise ConfigError("the address of the controller is not known: name it with --controller HOST:PORT")
        services = [(relay_server.SERVICE, self._server.add_to)]
        async with AsyncExitStack() as stack:
            server = serving(self._options.listen, services, security=self._security)
            port = await stack.enter_async_context(server)
            name, cluster = self._identity.node, self._identity.cluster
            host = split_address(self._options.listen)[0]
            log.info("relay ready", relay=name, cluster=cluster, listen=join_address(host, port))
            standing = Standing(name, 0, None)
            renewal = keep_renewed(self._options.credentials, self._security, lambda: self._controller, standing)
            await stack.enter_async_context(in_background(renewal, "renewal of the certificate"))
            await stack.enter_async_context(in_background(Notifier().beat(self._in_a_line), "systemd"))

            async def connect() -> None:
                address = self._options.address_at(port, self._controller)
                await register(
                    self._controller, self._identity, address, lambda: self._server.traffic.relayed,
                    lambda nodes, revoked: self._take(address, nodes, revoked),
                )  # fmt: skip

            await stay_connected(connect, lambda: False, self._outage, _BACKOFF)

    def _take(self, address: str, nodes: frozenset[str], revoked: frozenset[str]) -> None:
        self._outage.end()
        self._security.revoke(revoked)
        if nodes != self._nodes:
            log.info("nodes may use this relay", address=address, nodes=len(nodes))
        self._nodes = nodes

    def _in_a_line(self) -> str:
        connections = sum(one.connections for one in self._server.traffic.relayed)
        return f"relays {counted(connections, 'connection')} of {counted(len(self._nodes), 'node')}"


def run_relay(options: RelayOptions) -> None:
    """Run one relay, in an event loop of its own, until it is interrupted. It enrols first if it has to.

    Raises:
        EdgenodeError: it cannot start, or the controller refuses it.
        KeyboardInterrupt: it was interrupted.
    """
    require_no_file(options.state_dir)
    with claimed(options.state_dir, "a relay"):
        own = _credentials(options)
        while True:
            try:
                with _causes():
                    asyncio.run(RelayProcess(options, own).run())
            except NotAdmitted:
                if options.join is None:
                    raise
                own, options = _enrolled(options), replace(options, join=None)


@contextmanager
def _causes() -> Iterator[None]:
    try:
        yield
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc


def _credentials(options: RelayOptions) -> Credentials:
    """The credentials of this relay. Without valid ones it enrols."""
    own = read_credentials(options.credentials)
    if options.join is not None and (own is None or _is_of_another_cluster(own, options.join)):
        return _enrolled(options)
    if own is None:
        raise ConfigError(
            f"this relay has no certificate ({options.credentials}): run edgenode invite NAME --role relay where the "
            "controller runs, and type the line that it prints here"
        )
    if own.subject.role != "relay":
        raise ConfigError(f"{options.credentials} is the certificate of {own.subject}: choose another --state-dir")
    if (until := own.expires()) <= datetime.now(UTC):
        log.warning("nobody accepts the certificate of this relay", reason=expired(until))
    return own


def _is_of_another_cluster(own: Credentials, join: str) -> bool:
    try:
        return own.expires() <= datetime.now(UTC) or fingerprint(own.authority) != read_invite(join).authority
    except EdgenodeError as exc:  # such as a file that was removed after its use
        log.info("this relay is enrolled already, and does not need the invite", reason=str(exc))
        return False


def _enrolled(options: RelayOptions) -> Credentials:
    """Use the invite, and write the new credentials, and where the controller is."""
    invite = read_invite(options.join or "")
    given = (split_address(options.controller)[0],) if options.controller else ()
    own = enrol(invite, hosts=given)
    if own.subject.role != "relay":
        raise ConfigError(f"the invite is for {own.subject}, not for a relay (edgenode invite NAME --role relay)")
    host, port = invite.enrol_addresses[0]
    keep_controller_address(options.state_dir, str(invite.public or join_address(host, port - 1)))
    write_credentials(options.credentials, own)
    log.info("enrolled: from now on, no invite is needed", relay=own.subject.name, certificate=str(options.credentials))
    return own
