"""The last line of a controller: how the run ended, and which command shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode.controller.run_end import log_end
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView


@pytest.mark.parametrize(
    ("state", "ended_well", "event", "level"),
    [
        (NodeState.DONE, True, "the run is over: done", "info"),
        (NodeState.STOPPED, True, "the run is over: stopped", "info"),
        (NodeState.FAILED, False, "the run is over: failed", "error"),
    ],
)
def test_last_line_has_the_outcome_and_the_command(state: NodeState, ended_well: bool, event: str, level: str) -> None:
    nodes = tuple(
        NodeView(f"n{i}", status=NodeStatus(state, round=7, accuracy=0.5 + i / 10, error="disk" * (i == 0)))
        for i in range(2)
    )
    with capture_logs() as logged:
        log_end(ClusterStatus("home", nodes=nodes), ended_well, Path("/srv/my runs"))
    (line,) = logged
    assert (line["event"], line["log_level"], line["round"], line["mean_accuracy"]) == (event, level, 7, 0.55)
    assert line["to_look"] == "edgenode runs show last --state-dir '/srv/my runs'"
    assert line.get("reason") == ("n0: disk" if state is NodeState.FAILED else None)
    assert ("to_resume" in line) == (state is NodeState.STOPPED)
