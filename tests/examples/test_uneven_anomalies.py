"""The example with uneven boards: each board gains by taking part."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "uneven_anomalies"
LARGEST = "4"


def areas(*command: str | Path) -> list[list[float]]:
    """Run a script of the example, and return the AUC on each board that each process printed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=EXAMPLE, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"AUC on each board: ([\d. ]+)", done.stdout)
    return [[float(area) for area in line.split()] for line in found]


@pytest.mark.slow
def test_shared_detector_is_better_than_the_largest_board_alone(tmp_path: Path) -> None:
    """On every board, and by more than half of what all data would gain."""
    script = ["train.py", "--", "--part", "{index}"]
    shared = areas("-m", "edgenode", "launch", "--nodes", "5", "--out", tmp_path, *script)
    (alone,) = areas("plain.py", "--part", LARGEST)
    (everything,) = areas("plain.py")
    assert len(shared) == 5
    for node in shared:
        assert all(ours >= theirs for ours, theirs in zip(node, alone, strict=True))
        assert sum(node) > (sum(alone) + sum(everything)) / 2
