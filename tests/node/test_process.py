"""Whom a node follows, and what it offers to go on from."""

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
from edgenode.core.protocol.orders import EvictionCommitted, Fence, Halt, Hello, Leadership, Offer
from edgenode.core.protocol.plan import Member, Plan, create_plan
from edgenode.errors import ConfigError, TransportError
from edgenode.node.process import NodeProcess, Options
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore


def options(folder: Path, **changes: Any) -> Options:
    return replace(Options(Config(), "n0", "127.0.0.1:0", (), "mdns", folder), **changes)


class Running:
    """As much of a daemon as a greeting looks at."""

    fenced = frozenset({"n3"})
    plan: Plan = create_plan("edgenode", [Member("n0"), Member("n1")], factory.schedule(Config()))

    def post(self, event: object) -> None:
        """Takes what the greeting says of a pause."""


class Listening:
    """A daemon that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def post(self, event: object) -> None:
        self.told.append(event)


# --- the controller


def greeted(member: NodeProcess, *reigns: Leadership) -> None:
    for leadership in reigns:
        member._ordered(Hello(leadership))


def test_before_a_run_a_node_follows_whoever_greets_it_and_tells_nobody(tmp_path: Path) -> None:
    member = NodeProcess(options(tmp_path))
    greeted(member, Leadership(5, "a"), Leadership(0, "b"))
    assert member._joined("127.0.0.1:7700").follows is None


def test_a_member_follows_a_newer_controller_and_says_so(tmp_path: Path) -> None:
    member = NodeProcess(options(tmp_path))
    greeted(member, Leadership(5, "a", "there:1"))
    member._runner = Running()  # type: ignore[assignment]
    assert member._joined("127.0.0.1:7700").follows == Leadership(5, "a", "there:1")
    greeted(member, Leadership(5, "a", "there:2"), Leadership(6, "b", "here:1"))
    joined = member._joined("127.0.0.1:7700")
    assert (joined.running, joined.follows, joined.plan) == (True, Leadership(6, "b", "here:1"), Running.plan)
    assert (joined.process, joined.fenced) == (member.identity.process, {"n3"})


@pytest.mark.parametrize(
    "other", [Leadership(4, "a", "here:1"), Leadership(5, "b", "here:1")], ids=["older", "a second"]
)
def test_a_member_leaves_a_controller_that_it_must_not_follow_and_names_both(tmp_path: Path, other: Leadership) -> None:
    member = NodeProcess(options(tmp_path))
    greeted(member, Leadership(5, "a", "there:1"))
    member._runner = Running()  # type: ignore[assignment]
    both = rf"at here:1 \(term {other.term}, {other.nonce}\) is not the one we follow, at there:1 \(term 5, a\)"
    with pytest.raises(TransportError, match=both):
        greeted(member, other)
    assert member._joined("127.0.0.1:7700").follows == Leadership(5, "a", "there:1")


def test_who_is_told_to_stand_still_before_its_run_begins_remembers_it(tmp_path: Path) -> None:
    member = NodeProcess(options(tmp_path))
    member._ordered(Hello(Leadership(0), paused=True))
    assert member._halted
    member._ordered(Halt(False))
    assert not member._halted


def test_orders_that_come_while_the_daemon_is_made_reach_it_first_and_once(tmp_path: Path) -> None:
    member, daemon = NodeProcess(options(tmp_path)), Listening()
    orders = [Offer(Running.plan.latest), Fence(1, 1, frozenset({"n1"})), EvictionCommitted(Running.plan.records)]
    for order in orders[:2]:
        member._ordered(order)
    member._hand_over_to(daemon)  # type: ignore[arg-type]
    member._ordered(orders[2])
    assert daemon.told == orders


def test_two_processes_are_told_apart(tmp_path: Path) -> None:
    assert NodeProcess(options(tmp_path)).identity.process != NodeProcess(options(tmp_path)).identity.process


# --- what there is to go on from


OURS = Config()


def save(folder: Path, *rounds: int, config: Config = OURS) -> Plan:
    plan = create_plan("edgenode", [Member("n0"), Member("n1")], factory.schedule(config))
    for t in rounds:
        state = State.initial(np.zeros(3, np.float32))
        CheckpointStore(folder, config.digest()).save(Checkpoint(t, state, plan, {}, {}))
    return plan


def test_the_intact_checkpoints_are_offered_and_damaged_ones_skipped_by_name(
    tmp_path: Path,
) -> None:
    plan = save(tmp_path, 50, 100)
    assert NodeProcess(options(tmp_path)).saved == (frozenset({50, 100}), plan)
    (tmp_path / "checkpoints" / "round-000000100" / "meta.json").write_text("{")
    with capture_logs() as said:
        assert NodeProcess(options(tmp_path)).saved == (frozenset({50}), plan)
    assert "round-000000100 is damaged" in said[0]["reason"]
    (tmp_path / "checkpoints" / "round-000000050" / "state.safetensors").unlink()
    with capture_logs() as said:
        assert NodeProcess(options(tmp_path)).saved == (frozenset(), None)
    assert said[-1]["event"] == "no checkpoint is intact: joining without"


def test_checkpoints_of_another_run_are_refused_and_fresh_forgets_them(tmp_path: Path) -> None:
    theirs = load(None, {"run.seed": 1}, {})
    save(tmp_path, 50, config=theirs)
    digests = f"run digest {theirs.digest()}, ours is {Config().digest()}; forget it with --fresh"
    with pytest.raises(ConfigError, match=digests):
        NodeProcess(options(tmp_path))
    assert NodeProcess(options(tmp_path, fresh=True)).saved == (frozenset(), None)
    assert not (tmp_path / "checkpoints").exists()
    assert NodeProcess(options(tmp_path / "new", fresh=True)).saved == (frozenset(), None)
