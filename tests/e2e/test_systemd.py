"""Real daemons notify a socket in the place of systemd: ready, status, watchdog. A hung event loop is silent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pytest

from tests.e2e.fleet import DEADLINE_S, Fleet

WATCHDOG_S = 0.6
# SIGUSR1 hangs the main thread only, which runs the event loop
HANGABLE = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))
from edgenode.cli import main
main()
"""


class Systemd:
    """Starts a service as systemd does, and receives its notifications."""

    def __init__(self, name: str) -> None:
        self._address = f"edgenode-{os.getpid()}-{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self._address}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def spawn(self, argv: Sequence[str], env: dict[str, str], **popen_kwargs: Any) -> subprocess.Popen[Any]:
        env = env | {"NOTIFY_SOCKET": f"@{self._address}", "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        return subprocess.Popen([sys.executable, "-c", HANGABLE, *argv[3:]], env=env, **popen_kwargs)

    def receives(self, pattern: str, within_s: float = DEADLINE_S) -> bool:
        """Wait for a datagram that matches. False: none came in time."""
        deadline = time.monotonic() + within_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                if re.search(pattern, self._socket.recv(4096).decode()):
                    return True
            except TimeoutError:
                break
        return False


@pytest.mark.slow
def test_systemd_is_notified_until_the_event_loop_hangs(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 1_000_000, "run.evaluate_every": 10})
    with Systemd("controller") as of_controller, Systemd("node") as of_node, Systemd("relay") as of_relay:
        controller = fleet.controller(spawn=of_controller.spawn)
        address = controller.logs(r"controller ready .*listen=(\S+)")[1]
        relay = fleet.relay("fra", "--controller", address, "--listen", "127.0.0.1:0", spawn=of_relay.spawn)
        node = fleet.node("node-0", spawn=of_node.spawn)
        assert of_controller.receives("^READY=1$")
        assert of_node.receives("^READY=1$")
        assert of_relay.receives("^READY=1$")
        assert of_controller.receives("^STATUS=1 of 2 nodes are connected\nWATCHDOG=1$")
        assert of_node.receives(r"^STATUS=waiting for 1 more \(connected: node-0\)\nWATCHDOG=1$")

        other = fleet.node("node-1")
        running = r"accuracy [\d.]+%.*\nWATCHDOG=1$"
        assert of_node.receives(r"^STATUS=round \d+ of \d+, " + running)
        assert of_controller.receives(r"^STATUS=round \d+, nodes: 2, " + running)

        other.popen.send_signal(signal.SIGSTOP)
        assert of_node.receives(r"^STATUS=.*, waiting for node-1 \(\d+ s\)\nWATCHDOG=1$")

        assert of_relay.receives(r"^STATUS=relays 0 connections of 2 nodes\nWATCHDOG=1$")

        for systemd, process in ((of_controller, controller), (of_node, node), (of_relay, relay)):
            process.popen.send_signal(signal.SIGUSR1)
            systemd.receives("no such notification", WATCHDOG_S)  # discards what was sent before
            assert not systemd.receives("WATCHDOG=1", 3 * WATCHDOG_S)
            assert process.popen.poll() is None
            process.kill()
        other.kill()
