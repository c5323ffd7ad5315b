"""Notifications, read from real sockets, and service files, checked by systemd's own tools."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.observability.systemd import Notifier

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind("notify")
        ours.settimeout(5)
        yield ours


def received(systemd: socket.socket) -> str:
    return systemd.recv(4096).decode()


def test_notification_is_one_datagram_of_assignments(systemd: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": "notify"}).send(READY=1, STATUS="round 3,\naccuracy 9 %")
    assert received(systemd) == "READY=1\nSTATUS=round 3, accuracy 9 %"


def test_abstract_socket_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(f"\0edgenode-{os.getpid()}")
        ours.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@edgenode-{os.getpid()}"}).send(READY=1)
        assert received(ours) == "READY=1"


async def test_without_systemd_nothing_is_sent() -> None:
    Notifier({}).send(READY=1)
    await asyncio.wait_for(Notifier({}).beat(lambda: "never asked"), 1)


def test_missing_or_stalled_systemd_is_ignored(systemd: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": "nowhere"}).send(READY=1)
    notifier = Notifier({"NOTIFY_SOCKET": "notify"})
    for _ in range(1000):  # far more than a socket holds
        notifier.send(STATUS="x" * 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "watched"),
    [({}, False), ({"WATCHDOG_PID": "own"}, True), ({"WATCHDOG_PID": "1"}, False)],
)
async def test_ready_is_followed_by_status_and_watchdog(
    systemd: socket.socket, environ: dict[str, str], watched: bool
) -> None:
    usec = {"WATCHDOG_USEC": "30000"} if environ else {}
    environ = {key: value.replace("own", str(os.getpid())) for key, value in environ.items()}
    rounds = iter(range(100))
    notifier = Notifier({"NOTIFY_SOCKET": "notify", **usec, **environ})
    beat = asyncio.create_task(notifier.beat(lambda: f"round {next(rounds)}"))
    sent = [await asyncio.to_thread(received, systemd) for _ in range(3)]
    beat.cancel()
    sign = "\nWATCHDOG=1" if watched else ""
    assert sent == ["READY=1", f"STATUS=round 0{sign}", f"STATUS=round 1{sign}"]


# --- service files


def installed(unit: Path, folder: Path) -> Path:
    """The unit, with the edgenode of this environment, for tools that look whether it is there."""
    text = unit.read_text().replace("/opt/edgenode/bin/edgenode", f"{sys.prefix}/bin/edgenode")
    place = folder / unit.name
    place.write_text(text)
    return place


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.stem)
def test_service_file_matches_the_daemon(unit: Path) -> None:
    text = unit.read_text()
    command = unit.stem.removeprefix("edgenode-").replace("node", "run")
    of_run = "" if command == "relay" else " --config /etc/edgenode/run.toml"
    assert f"ExecStart=/opt/edgenode/bin/edgenode {command}{of_run} --state-dir" in text
    for line in ("Type=notify", "WatchdogSec=60", "Restart=on-failure", "SuccessExitStatus=130", "DynamicUser=yes"):
        assert re.search(rf"^{line}$", text, re.M), line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.stem)
def test_systemd_accepts_and_confines_the_services(unit: Path, tmp_path: Path) -> None:
    place = installed(unit, tmp_path)
    verified = subprocess.run(["systemd-analyze", "verify", place], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", place]  # tenths of 10, the worst
    secure = subprocess.run(command, capture_output=True, text=True, check=False)
    assert secure.returncode == 0, secure.stdout
