"""A failed renewal is tried again, whatever failed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode.net.tls import MutualTls
from edgenode.node.background import in_background
from edgenode.node.renewal import keep_renewed
from edgenode.node.standing import Standing
from edgenode.security.certificates import make_authority, make_credentials
from edgenode.security.secret_files import write_credentials
from edgenode.security.subject import Subject
from tests.net.descriptors import none_free
from tests.net.peer_ends import until


@pytest.mark.parametrize("fault", ["no descriptor", "others can read it", "damaged"])
async def test_file_that_cannot_be_read_is_tried_again(tmp_path: Path, fault: str) -> None:
    path, own = tmp_path / "credentials.pem", make_credentials(make_authority("home"), Subject("node", "n0"))
    write_credentials(path, own)
    security = MutualTls(own, lambda subject, key_id: True)
    if fault == "others can read it":
        path.chmod(0o644)
    elif fault == "damaged":
        path.write_bytes(b"x")
    with capture_logs() as logged:
        renewal = keep_renewed(path, security, lambda: "127.0.0.1:1", Standing("n0", 8, None), check_s=0.01)
        async with in_background(renewal, "renewal"):
            if fault == "no descriptor":
                with none_free():
                    await until(lambda: len(logged) > 1)
            await until(lambda: len(logged) > 1)
            write_credentials(path, own)
            os.utime(path)
            await asyncio.sleep(0.1)
    assert {line["event"] for line in logged} == {"cannot renew the certificate"}
