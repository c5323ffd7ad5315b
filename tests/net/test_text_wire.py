"""Texts from outside are shown, so they can do nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.protocol.status import NodeStatus
from edgenode.errors import RemoteProtocolError
from edgenode.net.status_wire import NODE_STATUS
from edgenode.net.text_wire import line_from_wire, reason_from_wire
from edgenode.net.wire import Identity


@given(st.text())
def test_line_is_printable_and_short(text: str) -> None:
    line = line_from_wire(text, 10)
    assert line.isprintable()
    assert len(line) <= 10
    assert line_from_wire(line, 10) == line


def test_terminal_is_not_steered() -> None:
    assert reason_from_wire("lost\x1b[2J\r\nall is well") == "lost?[2J??all is well"
    assert len(reason_from_wire("x" * 9999)) == 1000
    identity = Identity("home", "n1", "run\x1b]0;", 3, "p\n", "q" * 999)
    theirs = Identity.from_wire(identity.to_wire())
    assert (theirs.run_digest, theirs.plan_digest, len(theirs.process)) == ("run?]0;", "p?", 255)
    status = NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(error="a\x1b[1m", power_sensor="\x07")))
    assert (status.error, status.power_sensor) == ("a?[1m", "?")
    with pytest.raises(RemoteProtocolError, match="a process is named"):
        NODE_STATUS.from_wire(NODE_STATUS.to_wire(NodeStatus(waiting_for=("../n1",))))
