"""The invite that a node is started with: itself, a file, or standard input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edgenode import ConfigError
from edgenode.node.credentials import read_invite
from edgenode.security.invite import Invite

INVITE = Invite(bytes(16), bytes(32), "birds", ("10.0.0.5:7700",))


def test_an_invite_is_read_from_each_of_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "invite"
    file.write_text(f"\n{INVITE}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{INVITE}\n"))
    assert [read_invite(text) for text in (str(INVITE), str(file), "-")] == [INVITE] * 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is empty; run edgenode invite NAME where the controller runs, and copy its line"),
        (" \n", "it is empty; run edgenode invite NAME"),
        ("hello", "this is not an invite: it must begin with edgenode-invite-"),
        ("edgenode-invite-abc", "the invite is damaged"),
    ],
)
def test_a_file_without_an_invite_is_named(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "invite"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"^--join: '{file}' is neither an invite nor a file .* one: {reason}"):
        read_invite(str(file))


def test_standard_input_without_an_invite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match=r"^--join: standard input is neither an invite .*: it is empty"):
        read_invite("-")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither an invite nor a file that contains one: No such file or directory"):
        read_invite(str(tmp_path / "absent"))
