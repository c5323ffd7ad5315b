"""What a node and a controller make of records and greetings that no controller of their cluster signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Answered, PlanChanged, Received, Reported, Send, StepDown
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Hello,
    Leadership,
    Offer,
    Progress,
    Refuse,
)
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.plan.signatures import FoundingRecordOnly
from edgenode.errors import RemoteProtocolError
from tests.core.protocol.cluster_driver import a_run_spec, all_of, join, node_names, only
from tests.core.protocol.node_driver import a_plan, from_n1, kinds, pair, train
from tests.simulation.signer import CONTROLLER_SIGNER, SecretSigner

TERM_OF_A_LIAR = 1_000_000
LIAR = SecretSigner("of a liar")


def signed(record: Record) -> Record:
    return replace(record, signature=CONTROLLER_SIGNER.sign(record.statement))


def forged(record: Record) -> Record:
    return replace(record, signature=LIAR.sign(record.statement))


def a_signed_pair() -> tuple[Node, Node]:
    return pair(verifier=CONTROLLER_SIGNER)


# --- a node -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [{"end": 2}, {"handoffs": (("n0", "n1"),)}, {"evictions": (("n0", 0),)}], ids=str)
@pytest.mark.parametrize("way", ["push", "offer", "eviction", "answer"])
def test_forged_record_is_refused_and_changes_nothing(lie: dict[str, Any], way: str) -> None:
    node, peer = a_signed_pair()
    train(node)
    push, record = from_n1(peer, 0), forged(node.state.plan.successor(3, **lie))
    events = {
        "push": Received(replace(push, records=(record,))),
        "offer": Offer(record),
        "eviction": EvictionCommitted((record,)),
        "answer": Answered("n1", Ack(0, Verdict.STALE, 1, "", (record,))),
    }
    plan, end = node.state.plan, node.state.end
    with pytest.raises(RemoteProtocolError, match="forged"):
        node.handle(events[way])
    assert (node.state.plan, node.state.end, node.state.round) == (plan, end, 0)
    assert "Mixed" in kinds(node.handle(Received(push)))  # the same push without the lie


def test_signed_record_is_adopted_and_passed_on() -> None:
    node, peer = a_signed_pair()
    record = signed(node.state.plan.successor(3, end=3))
    train(node)
    actions = node.handle(Received(replace(from_n1(peer, 0), records=(record,))))
    assert PlanChanged(record) in actions and node.state.plan.latest.signature == record.signature
    assert node.state.end == 3


def test_of_two_records_one_of_which_is_forged_none_counts() -> None:
    node, peer = a_signed_pair()
    first = signed(node.state.plan.successor(3))
    second = forged(node.state.plan.extend(first).successor(5, end=5))
    with pytest.raises(RemoteProtocolError, match="forged"):
        node.handle(Received(replace(from_n1(peer, 0), records=(first, second))))
    assert node.state.plan.latest.number == 0


def test_eviction_of_an_earlier_run_evicts_nobody() -> None:
    node, _ = a_signed_pair()
    evicted = replace(node.state.plan.successor(3, evictions=(("n0", 2),)), run_id="an earlier run", parent="0" * 64)
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        node.handle(EvictionCommitted((signed(evicted),)))
    assert "Push" in kinds(train(node))


def test_without_a_controller_the_plan_never_changes() -> None:
    node, peer = pair(verifier=FoundingRecordOnly())
    for signature in ("", CONTROLLER_SIGNER.sign(node.state.plan.successor(3, end=3).statement)):
        record = replace(node.state.plan.successor(3, end=3), signature=signature)
        with pytest.raises(RemoteProtocolError, match="no controller"):
            node.handle(Received(replace(from_n1(peer, 0), records=(record,))))
    assert node.state.plan == a_plan(2)


# --- a controller -----------------------------------------------------------------------------------


def a_controller(nonce: str = "true", term: int = 3) -> tuple[Cluster, Leadership]:
    """A controller whose run of two nodes has begun, and its greeting."""
    cluster = Cluster(a_run_spec(2), Leadership(term, nonce), signer=CONTROLLER_SIGNER)
    greetings = [order for name in node_names(2) for order in all_of(Hello, cluster.handle(join(name)))]
    return cluster, greetings[0].leadership


def the_plan(cluster: Cluster) -> Plan:
    assert cluster.state.plan is not None
    return cluster.state.plan


def test_every_record_and_greeting_is_signed() -> None:
    cluster, greeting = a_controller()
    CONTROLLER_SIGNER.verify(greeting)
    CONTROLLER_SIGNER.verify(the_plan(cluster).latest)
    assert greeting.run_id == the_plan(cluster).latest.run_id == "true"


@pytest.mark.parametrize(
    "signature", ["", LIAR.sign(Leadership(TERM_OF_A_LIAR, "x", run_id="true").statement)], ids=["none", "forged"]
)
def test_term_that_no_greeting_proves_is_refused(signature: str) -> None:
    cluster, _ = a_controller()
    lie = Leadership(TERM_OF_A_LIAR, "x", run_id="true", signature=signature)
    actions = cluster.handle(join("n9", running=True, plan=the_plan(cluster), follows=lie))
    assert "forged" in only(Refuse, actions).reason
    assert all_of(StepDown, actions) == [] and cluster.state.leadership.term == 3


def test_signed_greeting_of_a_higher_term_makes_it_step_down() -> None:
    cluster, greeting = a_controller()
    newer = replace(greeting, term=4, nonce="newer")
    newer = replace(newer, signature=CONTROLLER_SIGNER.sign(newer.statement))
    assert only(StepDown, cluster.handle(join("n9", running=True, plan=the_plan(cluster), follows=newer)))


def test_greeting_of_an_earlier_run_does_not_make_it_step_down() -> None:
    cluster, _ = a_controller()
    _, earlier = a_controller("earlier", term=9)
    actions = cluster.handle(join("n9", running=True, plan=the_plan(cluster), follows=earlier))
    assert all_of(StepDown, actions) == [] and cluster.state.leadership.term == 3


def test_running_node_without_a_greeting_proves_nothing() -> None:
    cluster, _ = a_controller()
    assert all_of(StepDown, cluster.handle(join("n9", running=True, plan=the_plan(cluster)))) == []


def test_forged_plan_is_refused_in_every_report() -> None:
    cluster, _ = a_controller()
    plan = the_plan(cluster)
    lie = plan.extend(forged(plan.successor(8, end=8)))
    for running in (True, False):
        assert only(Refuse, cluster.handle(join("n9", running=running, plan=lie)))
    answer = FenceAnswer(3, 1, 5, (), lie.records)
    farewell = Progress(8, lie.latest.number, lie.latest.digest, answer)
    for report in (answer, farewell):
        with pytest.raises(RemoteProtocolError, match="forged"):
            cluster.handle(Reported("n0", report))
    assert cluster.state.plan == plan and not cluster.state.over


def test_recovering_controller_learns_signed_plans_only() -> None:
    cluster, greeting = a_controller()
    plan = the_plan(cluster)
    recovering = Cluster(a_run_spec(2), Leadership(0, "second"), recover=True, signer=CONTROLLER_SIGNER)
    lie = Leadership(2**63, "x", run_id=plan.latest.run_id)
    assert only(Refuse, recovering.handle(join("n0", running=True, plan=plan, follows=lie)))
    assert (recovering.state.plan, recovering.state.leadership.term) == (None, 0)
    actions = recovering.handle(join("n0", running=True, plan=plan, follows=greeting))
    hello = only(Hello, actions)
    assert isinstance(actions[0], Send) and actions[0].order is hello.order
    assert (hello.leadership.run_id, hello.leadership.term) == (plan.latest.run_id, recovering.state.leadership.term)
    assert recovering.state.leadership.term > greeting.term


# --- fences ------------------------------------------------------------------------------------------


def shown(fence: Fence) -> Fence:
    return replace(fence, signature=CONTROLLER_SIGNER.sign(fence.statement))


def after_a_restart(cluster: Cluster) -> Cluster:
    return Cluster(a_run_spec(2), Leadership(4, "next"), cluster.state.persist(), signer=CONTROLLER_SIGNER)


def test_fence_that_no_controller_ordered_evicts_nobody() -> None:
    first, greeting = a_controller()
    cluster, plan = after_a_restart(first), the_plan(first)
    lie = Fence(3, 1, frozenset({"n1"}), 0, plan.latest.run_id, "a lie")
    reason = only(Refuse, cluster.handle(join("n0", running=True, plan=plan, follows=greeting, fence=lie))).reason
    assert "forged" in reason and cluster.evictions.evicted == frozenset()


def test_fence_of_the_controller_before_is_brought_to_its_end() -> None:
    first, greeting = a_controller()
    cluster, plan = after_a_restart(first), the_plan(first)
    fence = shown(Fence(3, 1, frozenset({"n1"}), 0, plan.latest.run_id))
    actions = cluster.handle(join("n0", running=True, plan=plan, follows=greeting, fence=fence))
    assert cluster.evictions.evicted == {"n1"}
    for ordered in all_of(Fence, actions):
        assert ordered.term == 4
        CONTROLLER_SIGNER.verify(ordered.order)


@pytest.mark.parametrize(
    "changes", [{"run_id": "an earlier run"}, {"term": 4}, {"evicted": frozenset({"n9"})}, {"number": -1}], ids=str
)
def test_fence_that_has_ended_evicts_nobody(changes: dict[str, Any]) -> None:
    first, greeting = a_controller()
    plan = the_plan(first)
    if "number" in changes:  # n1 was evicted, and has come back
        out = plan.successor(8, members=plan.latest.members[:1], evictions=(("n1", 7),), term=3)
        back = Plan((*plan.records, signed(out)))
        members = plan.latest.members[0], replace(plan.latest.members[1], incarnation=1)
        plan = back.extend(signed(back.successor(20, members=members, term=3)))
        changes = {}
        first.state.plan = plan
    cluster = after_a_restart(first)
    fence = shown(replace(Fence(3, 1, frozenset({"n1"}), 0, plan.latest.run_id), **changes))
    actions = cluster.handle(join("n0", running=True, plan=plan, follows=greeting, fence=fence))
    assert all_of(Fence, actions) == [] and cluster.evictions.evicted == frozenset()


def test_node_stands_behind_a_signed_fence_only() -> None:
    node, _ = a_signed_pair()
    with pytest.raises(RemoteProtocolError, match="forged"):
        node.handle(Fence(0, 1, frozenset({"n1"})))
    assert node.state.fence is None
    fence = shown(Fence(0, 1, frozenset({"n1"})))
    node.handle(fence)
    assert node.state.fence == fence and node.state.fenced == {"n1"}
