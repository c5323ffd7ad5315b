"""TensorBoard events: one folder per node, only changes, and an error that names the missing extra."""

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


def test_round_is_written_once_and_without_unknown_values(tmp_path: Path) -> None:
    events, added = Events(tmp_path), list[tuple[str, str, int]]()
    events._add = lambda name, tag, value, t: added.append((name, tag, t))  # type: ignore[method-assign,func-returns-value,assignment]
    for status in (a_status(0), a_status(5), a_status(5), a_status(6, distance=0.5)):
        events.note(status)
    assert [t for name, tag, t in added if tag == "loss"] == [5, 6]
    assert added[-1] == ("cluster", "consensus_distance", 6)


def test_each_node_has_its_own_folder(tmp_path: Path) -> None:
    events = Events(tmp_path)
    events.note(a_status(5, distance=0.5))
    events.close()
    assert {path.name for path in tmp_path.iterdir()} == {"n0", "cluster"}


def test_missing_extra_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pip install 'edgenode\[tensorboard\]'"):
        Events(tmp_path)
