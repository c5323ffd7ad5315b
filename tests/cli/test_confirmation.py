"""Commands that cannot be undone ask on a terminal what they are about to do, and never ask a script."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

NOWHERE = ("--controller", "127.0.0.1:1", "--insecure")
EVICT = ("evict", "n1", *NOWHERE)


def on_a_terminal(answer: str, *words: str) -> tuple[int, str]:
    """The exit code and the output of a command whose standard input is a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "wb", buffering=0) as keyboard:
        keyboard.write(answer.encode())
        command = [sys.executable, "-m", "edgenode", *words]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
        os.close(theirs)
    return done.returncode, done.stdout + done.stderr


def test_evict_asks_on_a_terminal() -> None:
    code, text = on_a_terminal("n\n", *EVICT)
    assert (code, "Evict n1? What it learnt since its last push is lost" in text) == (1, True)
    assert "no controller answers" not in text


@pytest.mark.slow
@pytest.mark.parametrize("words", [EVICT, (*EVICT, "--yes")], ids=["confirmed", "--yes"])
def test_confirmed_evict_reaches_the_controller(words: tuple[str, ...]) -> None:
    code, text = on_a_terminal("y\n", *words)
    assert code == 1
    assert "no controller answers at 127.0.0.1:1" in text
    assert ("Evict n1?" in text) == ("--yes" not in words)


@pytest.mark.slow
def test_script_is_not_asked() -> None:
    command = [sys.executable, "-m", "edgenode", *EVICT]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Evict n1?" in done.stdout) == (1, False)
