"""A node keeps the address that its invite names, and judges the file when it reads it again."""

from __future__ import annotations

import socket
import stat
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode.node.controller_address import keep_controller_address, kept_controller_address, resolved


def test_address_is_kept_and_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "n0"
    keep_controller_address(folder, "")
    assert not folder.exists()
    for address in ("run.example.org:7700", "[2001:db8::10]:7750", ""):
        keep_controller_address(folder, address)
        assert kept_controller_address(folder) == address
    assert stat.S_IMODE((folder / "controller.txt").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content", [b"run.example.org", b"127.0.0.1:7700", b"a b:7700", b"\xff\xfe:1", b"a:99999", b"x" * 10_000 + b":1"]
)
def test_damaged_file_is_ignored_with_a_warning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "controller.txt").write_bytes(content)
    with capture_logs() as logs:
        assert kept_controller_address(tmp_path) == ""
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_name_is_resolved_to_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*tcp, ("203.0.113.10", 7700)), (*tcp, ("2001:db8::10", 7700, 0, 0)), (*tcp, ("203.0.113.10", 7700))]
    found += [(*tcp, (f"203.0.113.{i}", 7700)) for i in range(20, 40)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    addresses = await resolved("run.example.org:7700")
    assert addresses[:2] == ["203.0.113.10:7700", "[2001:db8::10]:7700"]
    assert len(addresses) == len(set(addresses)) == 8


async def test_name_without_an_address_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await resolved("run.invalid:7700") == ["run.invalid:7700"]
    monkeypatch.setattr("edgenode.node.controller_address._RESOLVE_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: time.sleep(1))
    assert await resolved("run.example.org:7700") == ["run.example.org:7700"]
    assert await resolved("203.0.113.10:7700") == ["203.0.113.10:7700"]
