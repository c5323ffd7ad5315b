"""A revoked key is refused at once, and its owner is evicted at one round. Members' keys are in the record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.controller.changes import Rekeying
from edgenode.core.protocol.events import Disconnected, Persist, Reported, Revoke, Rotate, Send
from edgenode.core.protocol.orders import Fetched, Hello, Leadership, NewKey, Offer, Revoked, Welcome
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.errors import RemoteProtocolError
from tests.core.protocol.cluster_driver import (
    QuietCluster,
    a_run_spec,
    all_of,
    answer,
    answer_fence,
    fences,
    join,
    node_names,
    only,
    persisted,
    progress,
    the_plan,
)
from tests.core.protocol.node_driver import a_plan


def key(name: str, number: int = 0) -> str:
    return f"{name}{number}".encode().hex().rjust(64, "0")


def a_cluster(nodes: int = 3) -> QuietCluster:
    """A run that has begun, whose members have shown their keys."""
    cluster = QuietCluster(a_run_spec(nodes))
    for name in node_names(nodes):
        cluster.handle(join(name, key=key(name)))
    for name in node_names(nodes):
        progress(cluster, name, 5)
    return cluster


def test_record_names_the_keys_of_its_members() -> None:
    cluster = a_cluster(2)
    assert [m.key for m in the_plan(cluster).latest.members] == [key("n0"), key("n1")]
    assert Record.from_json(the_plan(cluster).latest.to_json()) == the_plan(cluster).latest
    cluster.handle(join("n9", key=key("n9")))
    offer = only(Offer, cluster.handle(Reported("n9", Fetched())))
    answer(cluster, offer, True, 5)
    assert the_plan(cluster).latest.members[-1] == Member("n9", 0, "n9.local:1", key("n9"))


@pytest.mark.parametrize("wrong", ["", "ab", "g" * 64, "A" * 64, 7, None])
def test_record_with_a_malformed_key_is_refused(wrong: object) -> None:
    text = the_plan(a_cluster(2)).latest.to_json().replace(f'"{key("n0")}"', repr(wrong).replace("'", '"'))
    with pytest.raises(RemoteProtocolError, match="malformed"):
        Record.from_json(text.replace("None", "null"))


def test_revoked_member_is_refused_at_once_and_evicted_at_one_round() -> None:
    cluster = a_cluster(3)
    keys = frozenset({key("n2")})
    actions = cluster.handle(Revoke(keys))
    assert all_of(Revoked, actions) == [Send(name, Revoked(keys)) for name in node_names(2)]
    ordered = fences(actions)
    assert [fence.node for fence in ordered] == ["n0", "n1"]
    for fence in ordered:
        cluster.handle(Disconnected("n2"))
        actions = answer_fence(cluster, fence, 6, ("n2", 5))
    record = the_plan(cluster).latest
    assert (record.names, record.revoked, record.evictions) == (("n0", "n1"), (key("n2"),), (("n2", 5),))
    assert only(Persist, actions).plan.latest == record
    assert cluster.handle(Revoke(keys)) == []
    assert the_plan(cluster).successor(99).revoked == ()


def test_revocation_outlives_the_controller_that_began_it() -> None:
    cluster = a_cluster(3)
    saved, plan = persisted(cluster), the_plan(cluster)
    second = QuietCluster(a_run_spec(3), Leadership(1), saved)
    assert fences(second.handle(Revoke(frozenset({key("n2")})))) == []  # nobody has connected yet
    assert fences(second.handle(join("n0", running=True, plan=plan, key=key("n0"))))
    assert second.evictions.evicted == {"n2"}


def test_node_that_connects_learns_all_revoked_keys() -> None:
    cluster = a_cluster(2)
    keys = frozenset({key("n7"), key("n8")})
    cluster.handle(Revoke(keys))
    assert cluster.state.greeting().revoked == keys
    assert isinstance(cluster.state.greeting(), Hello)


def test_key_of_no_member_evicts_nobody() -> None:
    cluster = a_cluster(2)
    actions = cluster.handle(Revoke(frozenset({key("anna")})))
    assert fences(actions) == [] and len(all_of(Revoked, actions)) == 2


def test_run_resumes_without_a_member_whose_key_was_revoked() -> None:
    cluster = a_cluster(3)
    saved, plan = persisted(cluster), the_plan(cluster)
    second = QuietCluster(a_run_spec(3), Leadership(1), saved)
    second.handle(Revoke(frozenset({key("n2")})))
    second.handle(join("n0", saved=frozenset({4}), plan=plan, key=key("n0")))
    actions = second.handle(join("n1", saved=frozenset({4}), plan=plan, key=key("n1")))
    assert len(all_of(Welcome, actions)) == 2
    assert the_plan(second).latest.names == ("n0", "n1")


def test_revoked_node_that_is_still_connected_founds_no_run() -> None:
    cluster = QuietCluster(a_run_spec(2))
    cluster.handle(join("n0", key=key("n0")))
    cluster.handle(Revoke(frozenset({key("n0")})))  # the end of its link has not been noticed yet
    assert all_of(Welcome, cluster.handle(join("n1", key=key("n1")))) == []
    cluster.handle(Disconnected("n0"))
    assert len(all_of(Welcome, cluster.handle(join("n0", key=key("n0", 1))))) == 2


def test_revocation_of_the_only_member_resumes_nothing() -> None:
    saved = persisted(a_cluster(1))
    second = QuietCluster(a_run_spec(1), Leadership(1), saved)
    assert all_of(Welcome, second.handle(Revoke(frozenset({key("n0")})))) == []
    assert second.state.waits_for == frozenset()


def test_plan_admits_a_member_with_its_own_key_only() -> None:
    first = a_plan(3).latest
    members = tuple(replace(m, key=key(m.node)) for m in first.members)
    plan = Plan((replace(first, members=members),))
    assert plan.admits("n1", key("n1"), 7)
    assert not plan.admits("n1", key("n2"), 7)
    assert plan.admits("n9", key("n9"), 7)  # a newcomer
    left = plan.extend(plan.successor(20, members=members[:2], handoffs=(("n2", "n0"),)))
    assert left.admits("n2", key("n2", 1), 7)  # the same device, reinstalled
    assert a_plan(3).admits("n1", key("n1"), 7)  # fixed peers, or no certificates


# --- a key that changes -----------------------------------------------------------------------------


def test_member_is_known_by_its_new_key_from_one_round_on() -> None:
    cluster = a_cluster(3)
    offer = only(Offer, cluster.handle(Reported("n1", NewKey(key("n1", 1)))))
    answer(cluster, offer, True, 5)
    before, after = the_plan(cluster).records
    assert [m.key for m in after.members] == [key("n0"), key("n1", 1), key("n2")]
    assert after.incarnations == before.incarnations and after.schedule == before.schedule
    plan = the_plan(cluster)
    assert plan.admits("n1", key("n1"), after.start - 1) and plan.admits("n1", key("n1", 1), after.start - 1)
    assert plan.admits("n1", key("n1", 1), after.start) and not plan.admits("n1", key("n1"), after.start)
    for name in node_names(3):
        progress(cluster, name, after.start)
    assert cluster.handle(Reported("n1", NewKey(key("n1", 1)))) == []  # it is known already


def test_newest_of_several_new_keys_counts() -> None:
    cluster = a_cluster(3)
    cluster.handle(Rotate(1, (GraphSpec("b"),), Period(1)))  # on offer: the keys wait
    for number in (1, 2, 2):
        cluster.handle(Reported("n1", NewKey(key("n1", number))))
    assert [change.change for change in cluster.pending()][1:] == ["n1 changes its key"]
    cluster.handle(Reported("n1", NewKey(key("n1", 3))))
    assert cluster.state.queue == [Rekeying("n1", 0, key("n1", 3))]


def test_new_key_of_a_process_that_was_evicted_is_forgotten() -> None:
    cluster = a_cluster(3)
    offer = only(Offer, cluster.handle(Rotate(1, (GraphSpec("b"),), Period(1))))
    cluster.handle(Reported("n1", NewKey(key("n1", 1))))
    answer(cluster, offer, True, 5)
    (fence, *others) = fences(cluster.handle(join_again("n1", cluster)))
    for one in (fence, *others):
        actions = answer_fence(cluster, one, 6)
    assert "n1" not in the_plan(cluster).latest.names
    for name in ("n0", "n2"):
        actions = progress(cluster, name, the_plan(cluster).latest.start)
    assert all_of(Offer, actions) == [] and cluster.state.queue == []


def join_again(name: str, cluster: QuietCluster) -> Reported:
    cluster.handle(Disconnected(name))
    return join(name, process="second", key=key(name))


@pytest.mark.parametrize("node", ["n9", "n0"], ids=["a newcomer", "with a revoked key"])
def test_new_key_is_refused(node: str) -> None:
    cluster = a_cluster(2)
    cluster.handle(join("n9", key=key("n9")))
    cluster.handle(Revoke(frozenset({key("n0", 1)})))
    assert cluster.handle(Reported(node, NewKey(key(node, 1)))) == []
    assert cluster.pending() == ()
