"""Records, the chain of them, and what a stopped cluster resumes from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.plan import Member, Plan, Record, create_plan, reach, restore_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError, RemoteProtocolError

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FOUR = ("0", "1", "2", "3")


def nodes(*names: str) -> tuple[Member, ...]:
    return tuple(Member(name) for name in names)


def a_plan(*names: str, schedule: Schedule | None = None) -> Plan:
    return create_plan("home", nodes(*(names or FOUR)), schedule or Schedule((A,), every=1))


def edge_spec(text: str) -> GraphSpec:
    return GraphSpec(text, tuple((pair[0], pair[1]) for pair in text.split()))


# --- records


def test_what_is_left_of_a_plan_is_the_record_in_force_and_what_follows() -> None:
    plan = a_plan("n0", "n1")
    for start in (10, 20, 30):
        plan = plan.extend(plan.successor(start))
    left = [[record.start for record in plan.since(t).records] for t in (0, 9, 10, 25, 30, 99)]
    assert left == [[0, 10, 20, 30], [0, 10, 20, 30], [10, 20, 30], [20, 30], [30], [30]]
    resumed = Plan((replace(plan.latest, number=9),))
    assert resumed.since(0) == resumed


def a_record() -> Record:
    schedule = Schedule((A, edge_spec("01 12 23 30")), every=3, origin=2, last=GraphSpec("complete"), last_from=90)
    members = (*nodes("0", "1", "2"), Member("3", 4, "10.0.0.7:7001"))
    return Record("home", 2, "f00d", 11, schedule, members, 140, 5, (("8", "0"),), (("9", 7),))


def test_a_record_survives_json() -> None:
    assert Record.from_json(a_record().to_json()) == a_record()
    assert Record.from_json(a_record().to_json().encode()) == a_record()


def test_the_canonical_text_and_its_digest_are_frozen() -> None:
    """Nodes of different releases compare digests: a change here is a change of protocol."""
    assert a_record().to_json() == (
        '{"cluster":"home","cut":[["9",7]],"end":140,"heirs":[["8","0"]],'
        '"members":[["0",0,""],["1",0,""],["2",0,""],["3",4,"10.0.0.7:7001"]],"number":2,"parent":"f00d",'
        '"schedule":{"every":3,"graphs":[["a",null],["01 12 23 30",[["0","1"],["1","2"],["2","3"],["3","0"]]]],'
        '"last":["complete",null],"last_from":90,"origin":2},"start":11,"term":5}'
    )
    assert a_record().digest == "914dd320c2b9c846debe7914cc53ac9e26ab6dcca5b0a2ccbdd9b47c7891b133"


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": "away"},
        {"number": 3},
        {"parent": "beef"},
        {"start": 12},
        {"end": None},
        {"term": 6},
        {"handoffs": (("8", "1"),)},
        {"evictions": (("9", 8),)},
        {"members": nodes(*FOUR)},
        {"schedule": Schedule((A,), every=1)},
    ],
)
def test_the_digest_covers_every_field(change: dict) -> None:
    assert replace(a_record(), **change).digest != a_record().digest


def test_a_record_refuses_members_out_of_order_or_twice_and_negative_numbers() -> None:
    for members in (nodes("1", "0"), nodes("0", "0"), ()):
        with pytest.raises(GraphError):
            replace(a_record(), members=members, schedule=Schedule((A,), 1))
    for change in ({"start": -1}, {"number": -1}):
        with pytest.raises(GraphError):
            replace(a_record(), **change)


def test_a_record_refuses_a_schedule_that_does_not_fit_its_members() -> None:
    with pytest.raises(GraphError, match="unknown node '3'"):
        replace(a_record(), members=nodes("0", "1", "2"))


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "null", "1", "[]", "{}", "NaN", b"\xff\xfe", "[" * 100_000, "1" * 100_000],
)
def test_text_that_is_no_record_is_the_peers_fault(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed plan record"):
        Record.from_json(text)


@pytest.mark.parametrize("junk", [True, 1.0, "1", None, [1]])
@pytest.mark.parametrize("key", ["number", "start", "term"])
def test_only_a_whole_number_is_one(key: str, junk: object) -> None:
    """True and 1.0 equal 1, but their text does not: two nodes would disagree on the digest of equal records."""
    with pytest.raises(RemoteProtocolError, match="expected a whole number"):
        Record.from_json(json.dumps(json.loads(a_record().to_json()) | {key: junk}))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.one_of(st.text(max_size=2), st.integers()), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


def places(plain: object, path: tuple = ()) -> list[tuple]:
    """Every path into a JSON value."""
    children = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def mutated(plain: object, path: tuple, junk: object) -> object:
    if not path:
        return junk
    copy = dict(plain) if isinstance(plain, dict) else list(plain)
    copy[path[0]] = mutated(copy[path[0]], path[1:], junk)
    return copy


@settings(deadline=None)
@given(st.data(), JUNK)
def test_a_record_with_anything_replaced_is_read_or_refused(data: st.DataObject, junk: object) -> None:
    plain = json.loads(a_record().to_json())
    place = data.draw(st.sampled_from(places(plain)))
    read_or_refuse(json.dumps(mutated(plain, place, junk)))


@given(st.data())
def test_a_record_with_anything_missing_is_read_or_refused(data: st.DataObject) -> None:
    plain = json.loads(a_record().to_json())
    *path, key = data.draw(st.sampled_from(places(plain)[1:]))
    holder = plain
    for step in path:
        holder = holder[step]
    del holder[key]
    read_or_refuse(json.dumps(plain))


@given(st.integers(0, 400), st.binary(max_size=3))
def test_a_record_with_any_bytes_replaced_is_read_or_refused(at: int, junk: bytes) -> None:
    text = a_record().to_json().encode()
    read_or_refuse(text[:at] + junk + text[at + 1 :])


def read_or_refuse(text: str | bytes) -> None:
    try:
        record = Record.from_json(text)
    except RemoteProtocolError:
        return
    assert Record.from_json(record.to_json()) == record


# --- the chain


def test_the_plan_at_a_round_is_the_newest_record_begun() -> None:
    plan = a_plan()
    plan = plan.extend(plan.successor(5, schedule=Schedule((B,), 1)))
    plan = plan.extend(plan.successor(9, schedule=Schedule((C,), 1)))
    assert [plan.at(t).number for t in (0, 4, 5, 8, 9, 99)] == [0, 0, 1, 1, 2, 2]
    assert [plan.graph(t).out_neighbours("0") for t in (4, 5, 9)] == [("1",), ("3",), ("2",)]
    assert plan.latest.number == 2


def test_before_its_oldest_record_a_plan_falls_back_on_that() -> None:
    assert Plan((a_record(),)).at(0) == a_record()


def test_a_record_follows_only_its_parent() -> None:
    plan = a_plan()
    good = plan.successor(5)
    assert plan.extend(good).records == (plan.latest, good)
    bad = [
        replace(good, number=2),
        replace(good, number=0),
        replace(good, parent="f00d"),
        replace(good, cluster="away"),
        replace(good, start=0),
    ]
    for record in bad:
        with pytest.raises(RemoteProtocolError):
            plan.extend(record)
    with pytest.raises(RemoteProtocolError, match="does not follow"):
        plan.extend(good).extend(good)


def test_founding_sorts_the_members() -> None:
    plan = create_plan("home", nodes("b", "a"), Schedule((A,), 1))
    assert (plan.latest.names, plan.latest.number, plan.latest.start) == (("a", "b"), 0, 0)


# --- reach


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "chord", "one-peer-exponential", "complete"]), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(0, 12),
    st.integers(1, 20),
)
def test_reach_is_how_long_a_flood_takes(names: list[str], every: int, n: int, first: int, change: int) -> None:
    """Brute force: walk every path of pushes, across a change of plan."""
    members = tuple(f"n{i}" for i in range(n))
    plan = a_plan(*members, schedule=Schedule(tuple(map(GraphSpec, names)), every))
    plan = plan.extend(plan.successor(change, schedule=Schedule((C,), 1, origin=change)))

    def holds(node: str, rounds: int) -> bool:
        """Whether the record is at a node after so many rounds."""
        if rounds == 0:
            return node == members[0]
        senders = plan.graph(first + rounds - 1).in_neighbours(node)
        return any(holds(sender, rounds - 1) for sender in (node, *senders))

    needed = reach(plan, members[0], first)
    assert all(holds(node, needed) for node in members)
    assert not all(holds(node, needed - 1) for node in members)


def test_reach_alone_is_zero() -> None:
    assert reach(a_plan("0"), "0", 7) == 0


def test_reach_on_a_ring_is_all_the_others() -> None:
    assert reach(a_plan(*"abcdefgh"), "c", 5) == 7


def test_a_round_is_without_the_process_that_was_cut_out_of_it_and_not_without_a_later_one_of_its_name() -> None:
    """Found by the simulator: the second cut hid the first, and what had been pushed to the first was lost."""
    plan = a_plan("x", "y")
    for start, members, cut in ((5, "x", (("y", 3),)), (9, "xy", ()), (12, "x", (("y", 10),))):
        named = tuple(Member(n, int(n == "y" and start > 5)) for n in members)
        plan = plan.extend(plan.successor(start, members=named, evictions=cut))
    assert [plan.evicted_later(t) for t in (4, 8, 12)] == [{"y": 3}, {"y": 10}, {}]


# --- resume


def offers(plan: Plan, **rounds: set[int]) -> dict[str, tuple[frozenset[int], Plan]]:
    return {node: (frozenset(saved), plan) for node, saved in rounds.items()}


def test_a_cluster_resumes_from_the_newest_common_round() -> None:
    plan = a_plan("x", "y")
    back = (Member("y", 0, "host:2"), Member("x", 0, "host:1"))
    resumed, start = restore_plan(plan, back, offers(plan, x={10, 20, 30}, y={20, 10}))
    assert start == 20
    (record,) = resumed.records
    assert (record.number, record.parent, record.start) == (1, plan.latest.digest, 20)
    assert record.members == (Member("x", 0, "host:1"), Member("y", 0, "host:2"))
    assert record.schedule == plan.latest.schedule


def test_a_resumed_cluster_keeps_the_schedule_of_its_round_and_the_newest_number() -> None:
    old = a_plan("x", "y")
    new = old.extend(old.successor(25, schedule=Schedule((B,), 1), end=40))
    resumed, start = restore_plan(new, nodes("x", "y"), offers(old, x={20}, y={20, 30}))
    assert (start, resumed.latest.schedule, resumed.latest.end) == (20, old.latest.schedule, None)
    assert (resumed.latest.number, resumed.latest.parent) == (2, new.latest.digest)


def test_a_cluster_without_a_common_round_says_what_each_has() -> None:
    with pytest.raises(GraphError, match=r"x has \[10\]; y has \[20\]"):
        restore_plan(a_plan("x", "y"), nodes("x", "y"), offers(a_plan("x", "y"), x={10}, y={20}))


@pytest.mark.parametrize("names", [["x"], ["x", "y", "z"], ["x", "z"]])
def test_a_cluster_of_other_members_is_refused(names: list[str]) -> None:
    with pytest.raises(GraphError, match="the checkpoints are of x, y, not of"):
        restore_plan(a_plan("x", "y"), nodes(*names), offers(a_plan("x", "y"), **{name: {10} for name in names}))


def test_a_member_without_a_checkpoint_is_refused() -> None:
    with pytest.raises(GraphError, match="the checkpoints are of x, y"):
        restore_plan(a_plan("x", "y"), nodes("x", "y", "z"), offers(a_plan("x", "y"), x={10}, y={10}))


def test_half_of_the_members_may_be_enough_and_the_others_are_left_out() -> None:
    plan = a_plan("w", "x", "y", "z")
    resumed, start = restore_plan(
        plan, nodes("w", "x", "y", "z"), offers(plan, x={10, 20}, y={10, 20}, z={10}), least=1
    )
    assert (start, resumed.latest.names) == (10, ("x", "y", "z"))
    with pytest.raises(GraphError, match=r"w has none; x has \[10\]; y has none"):
        restore_plan(plan, nodes("w", "x", "y", "z"), offers(plan, x={10}), least=1)
    with pytest.raises(GraphError, match="enough members"):
        restore_plan(plan, nodes("w", "x", "y", "z"), offers(plan, x={10}, y={10}), least=3)


def test_what_an_evicted_process_saved_after_its_last_round_does_not_count() -> None:
    plan = a_plan("x", "y")
    plan = plan.extend(plan.successor(25, members=nodes("x"), evictions=(("y", 19),)))
    assert restore_plan(plan, nodes("x", "y"), offers(plan, x={10, 20}, y={10, 20}), least=1)[1] == 10
    assert restore_plan(plan, nodes("x", "y"), offers(plan, x={10, 19}, y={10, 19}), least=1)[1] == 19


def test_what_was_saved_before_a_resume_from_an_earlier_round_does_not_count() -> None:
    """One had saved 20, the other not: both went on from 10, and one died before it could drop its 20."""
    old = a_plan("x", "y")
    new, _ = restore_plan(old, nodes("x", "y"), offers(old, x={10, 20}, y={10}))
    again = {"x": (frozenset({10, 20}), old), "y": (frozenset({10, 20}), new)}
    assert restore_plan(new, nodes("x", "y"), again)[1] == 10
