"""The controller process: what it loads and saves, and the order in which it acts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.controller_process import Controller
from edgenode.controller.standby import NO_LINKS, Probation
from edgenode.core.protocol.events import Disconnected, Persist, Reported
from edgenode.core.protocol.orders import Hello, Join, Leadership, Order, Sponsor, Standby, Welcome
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.period import DataSize
from edgenode.errors import ConfigError, OtherRun
from edgenode.storage.controller_state import ControllerState

LISTEN = "127.0.0.1:0"
DISK_S = 0.3


# --- the state on disk


def saved_state(folder: Path, config: Config) -> Persist:
    plan = create_plan(config.run.cluster, [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], factory.schedule(config))
    persist = Persist(4, 0, plan)
    ControllerState(folder, config.digest(), config.shared()).save(persist)
    return persist


def test_controller_resumes_the_plan_in_a_higher_term(tmp_path: Path) -> None:
    persist = saved_state(tmp_path, Config())
    controller = Controller(ControllerOptions(Config(), LISTEN, tmp_path, insecure=True))
    assert (controller.cluster.state.plan, controller.cluster.state.leadership.term) == (persist.plan, 5)
    assert controller._relay.address_of("n0") == "10.0.0.1:7600"
    assert controller._relay.address_of("n1") == controller._relay.address_of("n9") == ""
    assert Controller(ControllerOptions(Config(), LISTEN, tmp_path, insecure=True)).cluster.state.leadership.term == 6


def test_damaged_state_is_removed_only_with_recover(tmp_path: Path) -> None:
    saved_state(tmp_path, Config())
    for file in tmp_path.iterdir():
        file.write_bytes(b"{")
    with pytest.raises(
        ConfigError, match=r"cannot be read: .*; start with --recover to take the plan from the running nodes"
    ):
        Controller(ControllerOptions(Config(), LISTEN, tmp_path, insecure=True))
    controller = Controller(ControllerOptions(Config(), LISTEN, tmp_path, recover=True, insecure=True))
    assert (controller.cluster.state.plan, controller.cluster.state.leadership.term) == (None, 0)
    assert ControllerState(tmp_path, Config().digest()).load() is None


def test_status_of_a_device_in_no_run_does_not_count(tmp_path: Path) -> None:
    lies = NodeStatus(NodeState.RUNNING, round=3, payload_bytes=1 << 53)
    new = Controller(ControllerOptions(Config(), LISTEN, tmp_path / "new", insecure=True))
    new.nodes.connected("n7", "here:1", "p")
    new._show("n7", lies)
    saved_state(tmp_path, Config())
    under_way = Controller(ControllerOptions(Config(), LISTEN, tmp_path, insecure=True))
    under_way.cluster.handle(Reported("n7", Join("here:1", Config().digest(), DataSize(8, 1), process="p")))
    under_way.nodes.connected("n7", "here:1", "p")
    under_way._show("n7", lies)
    under_way._show("n0", NodeStatus(NodeState.RUNNING, round=3, payload_bytes=20))
    for controller, total in ((new, 0), (under_way, 20)):
        assert controller.nodes["n7"].status == NodeStatus()
        assert controller.operator_service.status().payload_bytes == total


def test_eviction_of_a_live_node_is_logged_as_no_failure(tmp_path: Path) -> None:
    saved_state(tmp_path, Config())
    controller = Controller(ControllerOptions(Config(), LISTEN, tmp_path, insecure=True))
    for node in ("n0", "n7"):  # n7 is not in the plan any more
        controller.nodes.connected(node, "here:1", "p")
    with capture_logs() as logged:
        controller._show("n7", NodeStatus(NodeState.FAILED, error="n7 was evicted, and is not a member any more"))
        controller._show("n0", NodeStatus(NodeState.FAILED, error="the loop ended early"))
    assert [(line["node"], line["log_level"]) for line in logged] == [("n7", "info"), ("n0", "error")]


@pytest.mark.parametrize("recover", [False, True])
def test_state_of_another_run_is_never_removed(tmp_path: Path, recover: bool) -> None:
    saved_state(tmp_path, Config())
    with pytest.raises(OtherRun, match=r"another configuration: in this one run\.seed is 1, not 0\. Remove it"):
        Controller(ControllerOptions(load(None, {"run.seed": 1}, {}), LISTEN, tmp_path, recover, insecure=True))
    assert ControllerState(tmp_path, Config().digest()).load() is not None


# --- saved before sent


class SlowState(ControllerState):
    """The state on a disk that takes DISK_S for every save."""

    def __init__(self, folder: Path, config: Config, happened: list[object]) -> None:
        super().__init__(folder, config.digest())
        self._happened = happened

    def save(self, persist: Persist) -> None:
        self._happened.append("saving")
        time.sleep(DISK_S)
        super().save(persist)
        self._happened.append("saved")


class Site:
    """A controller of two nodes with a slow disk, without a network.

    Attributes:
        happened: saves, and orders as (node, type), in their order.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = load(None, {"run.nodes": 2}, {})
        self.controller = Controller(ControllerOptions(config, LISTEN, folder, insecure=True))
        self.happened: list[object] = []
        self.controller.state = SlowState(folder, config, self.happened)
        self._digest = config.digest()
        monkeypatch.setattr(self.controller._control, "send", self._sent)

    def _sent(self, node: str, order: Order) -> None:
        if not isinstance(order, Standby) or order.reason:
            self.happened.append((node, type(order)))

    def join(self, node: str, **fields: object) -> None:
        join = Join(f"{node}:1", self._digest, DataSize(1, 1), process="p", **fields)  # type: ignore[arg-type]
        self.controller._post_from_link(Reported(node, join))

    def disconnect(self, node: str) -> None:
        self.controller._post_from_link(Disconnected(node))

    async def until(self, event: object) -> None:
        async with asyncio.timeout(30):
            while event not in self.happened:  # noqa: ASYNC110  (saves happen in a thread)
                await asyncio.sleep(0.001)

    @contextmanager
    def owner(self) -> Iterator[None]:
        task = asyncio.ensure_future(self.controller._handle_events())
        yield
        task.cancel()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


async def test_orders_after_a_persist_wait_for_the_disk(site: Site) -> None:
    site.join("n0")
    site.join("n1")
    with site.owner():
        await site.until("saving")
        site.join("n2")  # stays in the mailbox
        await site.until(("n2", Hello))
    assert site.happened[:7] == [
        ("n0", Hello),
        ("n1", Hello),
        "saving",
        "saved",
        ("n0", Welcome),
        ("n1", Welcome),
        ("n2", Hello),
    ]


async def test_slow_disk_does_not_block_the_event_loop(site: Site) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    site.join("n0")
    site.join("n1")
    with site.owner():
        await site.until("saving")
        beating = asyncio.create_task(beat())
        await site.until("saved")
        beating.cancel()
    assert beats >= 3  # 30 on an idle machine


async def test_order_for_a_lost_link_does_not_reach_the_next_one(site: Site) -> None:
    site.join("n0")
    site.join("n1")
    with site.owner():
        await site.until("saving")
        site.disconnect("n1")  # and connects again, before it is welcomed
        site.join("n1")
        await site.until(("n1", Welcome))
    of_n1 = [event for event in site.happened if event[0] == "n1"]  # type: ignore[index]
    assert of_n1 == [("n1", Hello), ("n1", Hello), ("n1", Welcome)]


async def test_node_evicted_for_its_links_joins_after_its_wait(site: Site) -> None:
    now = [0.0]
    probation = site.controller._failure_detector.probation = Probation(10.0, lambda: now[0])
    probation.begin("n2", NO_LINKS)
    for node in ("n0", "n1"):
        site.join(node)
    with site.owner():
        await site.until(("n1", Welcome))
        site.join("n2")
        site.join("n3")
        await site.until(("n3", Sponsor))
        assert ("n2", Standby) in site.happened
        assert ("n2", Sponsor) not in site.happened
        now[0] = 10.0
        site.disconnect("n3")
        await site.until(("n2", Sponsor))


async def test_status_shows_which_nodes_are_connected(site: Site) -> None:
    site.join("n0")
    site.join("n1")
    with site.owner():
        await site.until(("n1", Welcome))
        site.disconnect("n1")
        site.join("n2")
        await site.until(("n2", Hello))
    nodes = site.controller.operator_service.status().nodes
    assert [(n.node, n.connected) for n in nodes] == [("n0", True), ("n1", False), ("n2", True)]


async def test_step_down_ends_the_owner_with_its_error(site: Site) -> None:
    plan = create_plan("home", [Member("n0"), Member("n1")], factory.schedule(Config()))
    site.join("n0", running=True, plan=plan, follows=Leadership(9, "other"))
    with pytest.raises(ConfigError, match=r"n0 follows .*; if that controller is lost for good, .* with --recover"):
        await site.controller._handle_events()
