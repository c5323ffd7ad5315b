"""The example with a loop of its own, in real processes: shortened, poles stand for longer than by chance."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole"


@pytest.mark.slow
def test_poles_stand_for_longer_after_some_rounds(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    command = [sys.executable, "-m", "edgenode", "launch", "--nodes", "2", "--set", "run.rounds=20", "--out", tmp_path]
    script = ["train.py", "--", "--part", "{index}"]
    done = subprocess.run([*command, *script], cwd=EXAMPLE, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    stood = [float(share) for share in re.findall(r"poles stand for ([\d.]+)%", done.stdout)]
    assert len(stood) == 2
    assert min(stood) > 30  # by chance they stand for 15 % of the time
