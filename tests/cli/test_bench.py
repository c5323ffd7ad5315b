"""``edgenode bench``: the table, JSON, the parts, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from edgenode.bench import ring
from edgenode.cli import group


@pytest.mark.slow
def test_vectors_are_measured_as_table_and_as_json() -> None:
    table = CliRunner().invoke(group, ["bench", "--only", "codec"], env={"COLUMNS": "120"})
    assert table.exit_code == 0, table.output
    assert re.search(r"codec +│ encode 1 % of [0-9,]+ entries +│ +[0-9.]+ │", table.stdout)
    result = CliRunner().invoke(group, ["bench", "--only", "selection,round", "--json"])
    found = json.loads(result.stdout)
    assert found["schema"] == "edgenode/bench/1"
    assert found["machine"]["cores"] >= 1
    rows = {(row["part"], row["unit"]): row for row in found["measurements"]}
    assert list(rows) == [("selection", "ms"), ("round", "ms"), ("round", "%")]
    for row in found["measurements"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]


@pytest.mark.slow
def test_ring_is_measured_with_real_nodes() -> None:
    shown: list[str] = []
    found = ring.play(["43 bytes", "1.08 MB"], shown.append, segment=8)
    assert shown == ["ring: 4 nodes start", "ring: 4 nodes, 43 bytes a push", "ring: 4 nodes, 1.08 MB a push"]
    assert [len(nodes) for nodes in found.values()] == [4, 4]
    assert [row.unit for row in ring.rates(found)] == ["rounds/s", "ms/round"] * 2
    idle, peak = ring.memory(found[ring.LARGE], 270_000)
    assert 50 < idle.median < peak.median < 2000  # MB


def test_unknown_part_is_named() -> None:
    result = CliRunner().invoke(group, ["bench", "--only", "ring,disk"])
    assert result.exit_code == 2
    assert "'disk' is none of selection, codec, round, ring, memory" in result.output


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgenode", "bench", "--only", "ring"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as run:
        assert run.stderr is not None
        lines = iter(run.stderr.readline, "")
        assert any("43 bytes" in line for line in lines)  # all nodes have been started
        nodes = psutil.Process(run.pid).children()
        assert len(nodes) == ring.NODES
        run.send_signal(signal.SIGINT)
        assert list(lines)[-1] == "edgenode: interrupted\n"
    assert run.returncode == 130
    assert psutil.wait_procs(nodes, timeout=10)[1] == []
    assert list(tmp_path.iterdir()) == []
