"""The log on a terminal: colours for people, and none where they are not wanted."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

_LOG = (
    "import structlog; from edgenode.observability.logs import set_up_logging; "
    "set_up_logging(False); structlog.get_logger().info('hello')"
)


@pytest.mark.parametrize(
    ("variables", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)]
)
def test_terminal_gets_colours_unless_it_has_none(variables: dict[str, str], coloured: bool) -> None:
    screen, terminal = pty.openpty()
    environment = {**os.environ, **variables}
    subprocess.run([sys.executable, "-c", _LOG], stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = os.read(screen, 4096)
    os.close(screen)
    assert b"hello" in shown
    assert (b"\x1b[" in shown) == coloured
