"""TensorBoard's events: one folder per node, only what changed, and a clear word where the extra is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgenode.core.protocol.status import ClusterStatus, NodeStatus, NodeView
from edgenode.errors import ConfigError
from edgenode.observability.tensorboard import Events


def a_status(t: int, distance: float | None = None) -> ClusterStatus:
    node = NodeView("n0", status=NodeStatus(round=t, loss=1.0, u=1.0))
    return ClusterStatus("home", nodes=(node,), consensus_distance=distance, consensus_round=t)


def test_a_round_is_written_once_and_what_is_not_known_never(tmp_path: Path) -> None:
    events, added = Events(tmp_path), list[tuple[str, str, int]]()
    events._add = lambda name, tag, value, t: added.append((name, tag, t))  # type: ignore[method-assign,func-returns-value,assignment]
    for status in (a_status(0), a_status(5), a_status(5), a_status(6, distance=0.5)):
        events.note(status)
    assert [t for name, tag, t in added if tag == "loss"] == [5, 6]
    assert added[-1] == ("cluster", "consensus_distance", 6)


def test_events_are_files_per_node(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.note(a_status(5, distance=0.5))
    events.close()
    assert {path.name for path in tmp_path.iterdir()} == {"n0", "cluster"}


def test_without_the_extra_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgenode\[tensorboard\]'"):
        Events(tmp_path)
