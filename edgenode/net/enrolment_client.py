"""A device's side of the enrolment: an invite in, credentials out. The private key never leaves this process.

The device tries the addresses of the invite, and then those that mDNS finds. It compares the authority at each with the
fingerprint in the invite, so an impostor costs one call, and learns nothing.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from edgenode.addresses import join_address, split_address
from edgenode.errors import ClockError, ConfigError, EdgenodeError, NotAdmitted, SecurityError, TransportError
from edgenode.net.interfaces import interfaces_for
from edgenode.net.reasons import failure, is_of_the_clock
from edgenode.security import certificates
from edgenode.security.certificates import MAX_PEM_BYTES, Credentials
from edgenode.security.invite import Invite
from edgenode.security.subject import CONTROLLER

_TIMEOUT_S = 10.0
_FIND_S, _OTHERS_ANSWER_S = 4.0, 1.0
_MOST_ANNOUNCED = 16


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, where the server must be the controller. Its certificate does not name the address."""

    def __init__(self, target: str, context: ssl.SSLContext) -> None:
        host, port = split_address(target)
        super().__init__(host, port, timeout=_TIMEOUT_S, context=context)
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=CONTROLLER.dns_name)


def enrol(invite: Invite, name: str = "", cluster: str = "", hosts: Sequence[str] = ()) -> Credentials:
    """Enrol this device with the controller that made an invite. Blocks for as long as the calls take.

    Args:
        name: the name of this device. "" takes the name in the invite.
        cluster: the cluster of the device. "" takes the invite's cluster.
        hosts: other hosts that may run the controller.

    Raises:
        NotAdmitted: the controller refuses, with its reason.
        SecurityError: only others than that controller answer.
        ConfigError: the invite is of another cluster than the device.
        TransportError: the controller does not answer.
        ClockError: the certificate of the controller is not valid by the clock of this device.
    """
    failures = list[EdgenodeError]()
    for target in _targets(invite, cluster, hosts):
        try:
            return _enrol_at(target, invite, name, cluster)
        except NotAdmitted:
            raise
        except SecurityError as exc:  # it is not the controller of the invite: another one may be
            failures.append(exc)
        except (OSError, http.client.HTTPException, TransportError) as exc:
            failures.append(failure(target, exc))
    if late := [failed for failed in failures if isinstance(failed, ClockError)]:
        raise late[0]
    if impostors := [failed for failed in failures if isinstance(failed, SecurityError)]:
        raise impostors[0]
    raise TransportError(f"the controller of the invite does not answer ({'; '.join(map(str, failures))})")


def _targets(invite: Invite, cluster: str, hosts: Sequence[str]) -> Iterator[str]:
    """host:port of each enrolment service to try, the invite's first."""
    ports = dict.fromkeys(port for _, port in invite.enrol_addresses)
    given = dict.fromkeys((*invite.enrol_addresses, *((host, port) for port in ports for host in hosts)))
    yield from (join_address(*address) for address in given)
    with ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop that runs
        found = thread.submit(lambda: asyncio.run(_announced(cluster))).result()
    yield from (join_address(host, port) for port in ports for host in found if (host, port) not in given)


async def _announced(cluster: str) -> list[str]:
    """The hosts of the controllers that mDNS finds."""
    from edgenode.net.discovery import Discovery

    try:
        async with Discovery(cluster, interfaces_for("")) as discovery:
            clusters = [cluster]
            if cluster:
                await discovery.wait("controller", timeout_s=_FIND_S)
            else:
                clusters = await discovery.wait_for_clusters("controller", timeout_s=_FIND_S)
            await asyncio.sleep(_OTHERS_ANSWER_S)  # an impostor may be the first
            watched = [discovery.watch("controller", one) for one in clusters]
            services = [service for one in watched for service in (await anext(one)).values()]
    except EdgenodeError:
        return []
    return list(dict.fromkeys(host for service in services for host in service.addresses))[:_MOST_ANNOUNCED]


def _enrol_at(target: str, invite: Invite, name: str, cluster: str) -> Credentials:
    authority = _fetch_authority(target, invite)
    if cluster and (found := certificates.cluster_of(authority)) != cluster:
        raise ConfigError(f"the invite is for the cluster {found}, but run.cluster is {cluster}: change one of the two")
    key = certificates.make_key()
    wanted = {"secret": invite.secret.hex(), "name": name, "request": certificates.signing_request(key).decode()}
    try:
        context = ssl.create_default_context(cadata=authority.decode("ascii"))
        status, answer = _call(_Connection(target, context), "POST", "/enrol", json.dumps(wanted).encode())
    except ssl.SSLError as exc:
        if is_of_the_clock(exc):
            raise
        raise SecurityError(f"{target} is not the controller of the invite: {exc.reason or exc}") from exc
    if status == http.client.FORBIDDEN:
        raise NotAdmitted(f"the controller at {target} refuses: {answer.decode(errors='replace')[:500]}")
    if status != http.client.OK:
        raise TransportError(f"status {status}")
    credentials = Credentials(key, answer, authority)
    certificates.check_issued(credentials)
    return credentials


def _fetch_authority(target: str, invite: Invite) -> bytes:
    """The CA's certificate, compared with the invite. The call reveals nothing to the other side."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        status, pem = _call(_Connection(target, unverified), "GET", "/authority", None)
        if status != http.client.OK:
            raise TransportError(f"status {status}")
    except ssl.SSLError as exc:
        raise TransportError(f"no TLS: {exc.reason or exc}") from exc
    if certificates.fingerprint(pem) != invite.authority:
        raise SecurityError(
            f"{target} belongs to another cluster than the invite: nothing was sent to it; "
            "check the address, and whether someone is in between"
        )
    return pem


def _call(connection: _Connection, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read(MAX_PEM_BYTES + 1)
        if len(answer) > MAX_PEM_BYTES:
            raise TransportError(f"it answers with more than {MAX_PEM_BYTES} bytes")
        return response.status, answer
    finally:
        connection.close()
