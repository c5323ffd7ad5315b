"""What others did against the protocol is counted, and logged once."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.status import Fault
from edgenode.errors import RemoteProtocolError
from edgenode.net.faults import Faults

ERROR = RemoteProtocolError("u = 1e300")


def test_faults_are_counted_and_logged_once_by_peer_and_kind(capsys: pytest.CaptureFixture[str]) -> None:
    faults = Faults()
    for _ in range(3):
        faults.note("n1", "push", ERROR)
    faults.note("n1", "answer", ERROR)
    faults.note("", "push", ERROR)
    assert faults.by_peer == (Fault("n1", "answer", 1), Fault("n1", "push", 3), Fault("unknown", "push", 1))
    logged = capsys.readouterr().out.splitlines()
    assert len(logged) == 3
    assert "peer=n1" in logged[0]
    assert "u = 1e300" in logged[0]


def test_invented_names_take_no_memory() -> None:
    faults = Faults()
    for i in range(5000):
        faults.note(f"n{i}", "push", ERROR)
    assert len(faults.by_peer) <= 1025
    assert sum(fault.count for fault in faults.by_peer) == 5000
