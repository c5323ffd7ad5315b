"""The controller's own certificates are renewed while it runs, and revocations are noticed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from edgenode.controller.enrolment import Enrolment
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
