"""What a controller remembers, and what it does when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.controller.process import Controller
from edgenode.controller.registry import NodeEntry, NodeRegistry
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.errors import ConfigError, OtherRun
from edgenode.storage.controller_state import ControllerState

LISTEN = "127.0.0.1:0"


def remembered(folder: Path, config: Config) -> Persist:
    plan = create_plan(config.run.cluster, [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], factory.schedule(config))
    persist = Persist(4, 0, plan)
    ControllerState(folder, config.digest()).save(persist)
    return persist


def test_a_controller_goes_on_with_the_plan_and_a_higher_term_and_knows_where_members_were(tmp_path: Path) -> None:
    persist = remembered(tmp_path, Config())
    controller = Controller(Config(), LISTEN, tmp_path)
    assert (controller.cluster.plan, controller.cluster.term) == (persist.plan, 5)
    assert controller._planned("n0") == "10.0.0.1:7600"
    assert controller._planned("n1") == controller._planned("n9") == ""
    assert Controller(Config(), LISTEN, tmp_path).cluster.term == 6


def test_damaged_state_is_refused_with_the_remedy_and_removed_only_with_it(tmp_path: Path) -> None:
    remembered(tmp_path, Config())
    for file in tmp_path.iterdir():
        file.write_bytes(b"{")
    with pytest.raises(ConfigError, match=r"cannot be read: .*; to take the plan from the nodes that run, .*--recover"):
        Controller(Config(), LISTEN, tmp_path)
    controller = Controller(Config(), LISTEN, tmp_path, recover=True)
    assert (controller.cluster.plan, controller.cluster.term) == (None, 0)
    assert ControllerState(tmp_path, Config().digest()).load() is None


@pytest.mark.parametrize("recover", [False, True])
def test_state_of_another_run_stays_whatever_is_said(tmp_path: Path, recover: bool) -> None:
    remembered(tmp_path, Config())
    with pytest.raises(OtherRun, match=f"digest {Config().digest()}, ours is"):
        Controller(load(None, {"run.seed": 1}, {}), LISTEN, tmp_path, recover)
    assert ControllerState(tmp_path, Config().digest()).load() is not None


def test_a_member_that_failed_may_be_cut_out_like_one_that_died_and_one_that_is_done_may_not() -> None:
    heard = {
        state: NodeEntry("10.0.0.1:7600", status=NodeStatus(state=state)).heard(0.0)
        for state in (NodeState.FAILED, NodeState.DONE, NodeState.STOPPED)
    }
    assert [h.ended for h in heard.values()] == [False, True, True]


RUNNING, DONE, FAILED = NodeState.RUNNING, NodeState.DONE, NodeState.FAILED


@pytest.mark.parametrize(
    ("states", "connected", "abandoned"),
    [
        ((RUNNING, RUNNING, RUNNING), (), False),  # all down: they come back
        ((DONE, DONE, RUNNING), (), True),
        ((DONE, RUNNING), (), True),
        ((DONE, RUNNING, RUNNING), (), False),  # two of three can go on
        ((DONE, DONE, RUNNING), (2,), False),
        ((DONE, DONE, RUNNING), (0,), True),
        ((FAILED, RUNNING, RUNNING), (), True),
        ((FAILED, RUNNING, RUNNING), (1,), False),
    ],
)
def test_a_run_is_abandoned_if_those_left_are_gone_and_too_few(
    states: tuple[NodeState, ...], connected: tuple[int, ...], abandoned: bool
) -> None:
    names = [f"n{i}" for i in range(len(states))]
    plan = create_plan("home", map(Member, names), factory.schedule(Config()))
    register = NodeRegistry()
    for i, (name, state) in enumerate(zip(names, states, strict=True)):
        register[name] = NodeEntry("", connected=i in connected, status=NodeStatus(state=state))
    register["newcomer"] = NodeEntry("")
    assert register.are_abandoned(plan) == abandoned
