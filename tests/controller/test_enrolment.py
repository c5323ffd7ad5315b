"""What a controller's enrolment does beside its service: renewals, revocations and the first invites."""

from __future__ import annotations

import asyncio
import os
from contextlib import nullcontext
from pathlib import Path

from structlog.testing import capture_logs

from edgenode.cli.security import Duration, invite
from edgenode.config.schema import Config
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.enrolment import Enrolment, invite_first
from edgenode.net.credential_server import CredentialServer
from edgenode.node.background import in_background
from edgenode.security.authority import LOCAL_OPERATOR, Authority
from edgenode.security.secret_files import read_credentials
from edgenode.security.subject import Subject
from tests.net.peer_ends import until


async def test_own_certificates_are_renewed_while_it_runs(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, "home")
    files = [tmp_path / "authority" / "controller.pem", tmp_path / "operator.pem"]
    before = [read_credentials(path) for path in files]
    for path in files:
        os.utime(path, (1, 1))
    async with in_background(enrolment.keep_renewed(check_s=0.01), "renewal"):
        await until(lambda: all(read_credentials(path) not in before for path in files))
    after = [read_credentials(path) for path in files]
    assert [one and one.key_id for one in after] == [one and one.key_id for one in before]
    assert enrolment.security.credentials == after[0]


async def test_revocations_of_before_and_of_other_processes_are_noticed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "home")
    keys = [authority.make(Subject("node", name)).key_id for name in ("n0", "n1")]
    authority.revoke(Subject("node", "n0"))
    enrolment, noticed = Enrolment(tmp_path, "home"), list[frozenset[str]]()
    async with in_background(enrolment.watch_revocations(noticed.append), "revocations"):
        await until(lambda: noticed == [{keys[0]}])
        authority.revoke(Subject("node", "n1"))
        async with asyncio.timeout(1):
            await until(lambda: noticed == [{keys[0]}, {keys[1]}])
    assert not enrolment.admits(Subject("node", "n1"), keys[1])
    assert enrolment.admits(*enrolment.operator) and enrolment.operator[0] == LOCAL_OPERATOR


def test_an_invite_is_open_equally_long_from_each_of_its_sources(tmp_path: Path) -> None:
    """Of a controller that starts, and of `edgenode invite`."""
    server = CredentialServer(Authority(tmp_path, "home"), (), lambda who, request: nullcontext())
    shown = list[str]()
    options = ControllerOptions(Config(), "127.0.0.1:0", tmp_path, invites=1, show_invite=shown.append)
    with capture_logs() as logs:
        invite_first(server, options)
    (default,) = (option.default for option in invite.params if option.name == "ttl_s")
    assert (len(shown), [line["ttl_s"] for line in logs]) == (1, [Duration().convert(default, None, None)])
