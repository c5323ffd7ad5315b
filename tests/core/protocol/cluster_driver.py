"""Drives a ``Cluster`` by hand: reports and requests in short form, and its actions by kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import (
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Persist,
    Reported,
    Send,
)
from edgenode.core.protocol.orders import (
    Fence,
    FenceAnswer,
    Hello,
    Join,
    Leadership,
    OfferAnswer,
    Progress,
    Sponsor,
)
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import ScheduleSpec

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FIRST = Leadership(0)


def is_hello(action: ClusterAction) -> bool:
    return isinstance(action, Send) and isinstance(action.order, Hello)


class QuietCluster(Cluster):
    """A cluster in term 0, without the greetings, which have their own tests."""

    def __init__(
        self, run_spec: RunSpec, leadership: Leadership = FIRST, saved: Persist | None = None, recover: bool = False
    ):
        super().__init__(run_spec, leadership, saved, recover)

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        return [action for action in super().handle(event) if not is_hello(action)]


def a_run_spec(nodes: int = 4, **changes: Any) -> RunSpec:
    run_spec = RunSpec("lab", nodes, "digest", ScheduleSpec((A,)), rounds=1000)
    return replace(run_spec, **changes)


def join(name: str, **changes: Any) -> Reported:
    return Reported(name, replace(Join(f"{name}.local:1", "digest", DataSize(10, 1)), **changes))


def node_names(n: int = 4) -> list[str]:
    return [f"n{i}" for i in range(n)]


def a_started_cluster(nodes: int = 4, term: int = 0, **changes: Any) -> QuietCluster:
    cluster = QuietCluster(a_run_spec(nodes, **changes), Leadership(term))
    for name in node_names(nodes):
        cluster.handle(join(name))
    return cluster


def the_plan(cluster: QuietCluster) -> Plan:
    assert cluster.state.plan is not None
    return cluster.state.plan


def progress(cluster: QuietCluster, name: str, next_round: int) -> list[ClusterAction]:
    latest = the_plan(cluster).latest
    return cluster.handle(Reported(name, Progress(next_round, latest.number, latest.digest)))


def answer(cluster: QuietCluster, offer: Sent, accepted: bool, next_round: int) -> list[ClusterAction]:
    report = OfferAnswer(offer.record.number, offer.record.digest, accepted, next_round)
    return cluster.handle(Reported(offer.node, report))


def persisted(cluster: QuietCluster) -> Persist:
    return cluster.state.persist()


def kinds(actions: list[ClusterAction]) -> list[str]:
    return [type(a.order if isinstance(a, Send) else a).__name__ for a in actions]


def all_of(kind: type, actions: list[ClusterAction]) -> list[Any]:
    """The actions of a kind, or the orders of that kind that are sent."""
    sent = [Sent(a.node, a.order) for a in actions if isinstance(a, Send) and isinstance(a.order, kind)]
    return sent or [a for a in actions if isinstance(a, kind)]


def only(kind: type, actions: list[ClusterAction]) -> Any:
    found = all_of(kind, actions)
    assert len(found) == 1, actions
    return found[0]


@dataclass(frozen=True)
class Sent:
    """An order with its receiver. The attributes of the order are its own."""

    node: str
    order: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.order, name)

    def __eq__(self, other: object) -> bool:
        return other == Send(self.node, self.order) or (isinstance(other, Sent) and other.order == self.order)

    __hash__ = None  # type: ignore[assignment]


def reconnect(name: str, plan: Plan) -> Reported:
    return join(name, running=True, plan=plan)


def follower(leader: Leadership) -> Reported:
    return join("n0", running=True, plan=the_plan(a_started_cluster(2)), follows=leader)


def answer_fence(cluster: QuietCluster, fence: Sent, begun: int, *begun_rounds: tuple[str, int]) -> list[ClusterAction]:
    report = FenceAnswer(fence.term, fence.ballot, begun, begun_rounds, the_plan(cluster).records)
    return cluster.handle(Reported(fence.node, report))


def sponsor(node: str, members: tuple[Member, ...]) -> Send:
    return Send(
        node,
        Sponsor(members[0].address, tuple(m.address for m in members), members[0].node, tuple(m.node for m in members)),
    )


def fences(actions: list[ClusterAction]) -> list[Sent]:
    return all_of(Fence, actions)


def finish(
    cluster: QuietCluster, name: str, begun: int = 999, begun_rounds: dict[str, int] | None = None
) -> list[ClusterAction]:
    """A member finishes all its rounds, and says farewell."""
    plan = the_plan(cluster)
    farewell = FenceAnswer(0, 0, begun, tuple(sorted((begun_rounds or {}).items())), plan.records)
    return cluster.handle(Reported(name, Progress(begun + 1, plan.latest.number, plan.latest.digest, farewell)))


def a_finished_cluster(nodes: int = 4) -> QuietCluster:
    """A run that is over. No node is connected."""
    cluster = a_started_cluster(nodes)
    for name in node_names(nodes):
        assert finish(cluster, name) == []
        cluster.handle(Disconnected(name))
    return cluster
