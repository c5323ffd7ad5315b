"""The example of a shared body with heads of each board's own, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "personal_heads"


def accuracies(out: Path, *options: str) -> list[float]:
    """The final test accuracy of each board."""
    command = [sys.executable, "-m", "edgenode", "launch", "--nodes", "4", "--out", out, *options]
    script = ["train.py", "--", "--board", "{index}"]
    done = subprocess.run([*command, *script], cwd=EXAMPLE, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads((out / f"node-{i}" / "result.json").read_text()) for i in range(4)]
    return [result["nodes"][0]["test_accuracy"] for result in results]


@pytest.mark.slow
def test_own_heads_fit_where_a_common_one_does_not(tmp_path: Path) -> None:
    assert min(accuracies(tmp_path / "heads")) >= 0.95
    assert max(accuracies(tmp_path / "all", "--set", "task.shared=*")) <= 0.6
