"""The example of a text model with tied weights, in real processes: one tensor under two names is exchanged once."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "tied_text"


def printed(*command: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=EXAMPLE, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def perplexities(output: str) -> list[float]:
    return [float(found) for found in re.findall(r"perplexity of the text of all boards: ([\d.]+)", output)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_boards_learn_together_what_none_learns_alone(tmp_path: Path) -> None:
    """Every board is better than the best one alone, and near what all text in one place teaches."""
    launch = ["-m", "edgenode", "launch", "--nodes", "4", "--out", tmp_path, "train.py", "--", "--part", "{index}"]
    plain = [("plain.py", "--part", str(board)) for board in range(4)]
    with ThreadPoolExecutor() as pool:
        output, *outputs = pool.map(lambda command: printed(*command), [launch, *plain, ("plain.py",)])
    together = perplexities(output)
    *alone, everything = (perplexities(one)[0] for one in outputs)
    assert len(together) == 4
    assert max(together) < min(alone)
    assert max(together) < everything + 0.25 * (min(alone) - everything)
    # 128 x 64 once, the GRU, and the bias of the output
    assert set(re.findall(r"shared_parameters=(\d+)", output)) == {str(128 * 64 + 2 * 3 * 64 * (64 + 1) + 128)}
