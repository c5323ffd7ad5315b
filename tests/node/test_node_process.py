"""What a node process can resume from, and how it differs from others of its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.errors import ConfigError
from edgenode.node.node_options import NodeOptions
from edgenode.node.node_process import NodeProcess
from edgenode.node.task_workload import TaskWorkload
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore

OURS = Config()


def process(folder: Path, **changes: Any) -> NodeProcess:
    options = replace(NodeOptions(OURS, "n0", "127.0.0.1:0", (), "mdns", folder), **changes)
    return NodeProcess(options, TaskWorkload(OURS, "n0"))


def save(folder: Path, *rounds: int, config: Config = OURS) -> Plan:
    plan = create_plan("edgenode", [Member("n0"), Member("n1")], factory.schedule(config))
    for t in rounds:
        state = State.initial(np.zeros(3, np.float32))
        store = CheckpointStore(folder, config.digest(), config=config.shared())
        store.save(Checkpoint(t, state, plan, {}, {}))
    return plan


def test_two_processes_of_one_name_differ(tmp_path: Path) -> None:
    assert process(tmp_path).identity.process != process(tmp_path).identity.process


def test_intact_checkpoints_are_offered_and_damaged_ones_named(tmp_path: Path) -> None:
    plan = save(tmp_path, 50, 100)
    assert process(tmp_path).saved == (frozenset({50, 100}), plan)
    (tmp_path / "checkpoints" / "round-000000100" / "meta.json").write_text("{")
    with capture_logs() as logged:
        assert process(tmp_path).saved == (frozenset({50}), plan)
    assert "round-000000100 is damaged" in logged[0]["reason"]
    (tmp_path / "checkpoints" / "round-000000050" / "state.safetensors").unlink()
    with capture_logs() as logged:
        assert process(tmp_path).saved == (frozenset(), None)
    assert logged[-1]["event"] == "no intact checkpoint: joining without one"


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 50, config=load(None, {"run.seed": 1}, {}))
    with pytest.raises(ConfigError, match=r"in this one run\.seed is 0, not 1; discard it with --fresh"):
        process(tmp_path)


def test_fresh_discards_the_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 50, config=load(None, {"run.seed": 1}, {}))
    assert process(tmp_path, fresh=True).saved == (frozenset(), None)
    assert not (tmp_path / "checkpoints").exists()
    assert process(tmp_path / "new", fresh=True).saved == (frozenset(), None)
