"""Records: their canonical text, their digest, and what is rejected as malformed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Epoch
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


# --- records ----------------------------------------------------------------------------------------


def a_record() -> Record:
    schedule = Schedule((A, edge_spec("01 12 23 30")), every=3, origin=2, last=GraphSpec("complete"), last_from=90)
    members = (*nodes("0", "1", "2"), Member("3", 4, "10.0.0.7:7001"))
    return Record("home", 2, "f00d", 11, schedule, members, 140, 5, (("8", "0"),), (("9", 7),))


def test_record_survives_json() -> None:
    assert Record.from_json(a_record().to_json()) == a_record()
    assert Record.from_json(a_record().to_json().encode()) == a_record()


@pytest.mark.parametrize("key", ["", "c0" * 32])
def test_key_for_masks_survives_json_and_is_covered_by_the_digest(key: str) -> None:
    members = [Member(name, 1, "10.0.0.7:7001", key, mask_key=f"{name:0>2}" * 32) for name in FOUR]
    record = replace(a_record(), members=tuple(members))
    assert Record.from_json(record.to_json()) == record
    swapped = replace(record, members=(replace(members[0], mask_key="ff" * 32), *members[1:]))
    assert swapped.digest != record.digest


@pytest.mark.parametrize("wrong", ["", "ab", "C0" * 32, 5, None, ["c0" * 32]])
def test_key_for_masks_that_is_none_is_refused(wrong: object) -> None:
    plain = json.loads(a_record().to_json())
    plain["members"][1] += ["", wrong]
    with pytest.raises(RemoteProtocolError, match="malformed plan record"):
        Record.from_json(json.dumps(plain))


def test_canonical_text_and_digest_are_frozen() -> None:
    """Nodes of different releases compare digests, so a change here is a change of the protocol."""
    assert a_record().to_json() == (
        '{"cluster":"home","end":140,"evictions":[["9",7]],"handoffs":[["8","0"]],'
        '"members":[["0",0,""],["1",0,""],["2",0,""],["3",4,"10.0.0.7:7001"]],"number":2,"parent":"f00d",'
        '"schedule":{"every":3,"graphs":[["a",null],["01 12 23 30",[["0","1"],["1","2"],["2","3"],["3","0"]]]],'
        '"last":["complete",null],"last_from":90,"origin":2},"start":11,"term":5}'
    )
    assert a_record().digest == "b2f1f8062f200b17c7dcb3db8cc3310a98eff4d8c83bffdfc1f125bea861e58b"


def test_epoch_is_part_of_the_text_only_if_it_is_known() -> None:
    """Records of runs without data sizes keep their digests."""
    record = replace(a_record(), epoch=Epoch(250, 8))
    assert json.loads(record.to_json()) == json.loads(a_record().to_json()) | {"epoch": [250, 8]}
    assert Record.from_json(record.to_json()) == record
    for wrong in ([250, 0], [-1, 8], [250, 8.0], [1, 2, 3]):
        with pytest.raises(RemoteProtocolError, match="malformed plan record"):
            Record.from_json(json.dumps(json.loads(record.to_json()) | {"epoch": wrong}))


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
def test_digest_covers_every_field(change: dict) -> None:
    assert replace(a_record(), **change).digest != a_record().digest


def test_record_with_unsorted_members_or_negative_numbers_raises() -> None:
    for members in (nodes("1", "0"), nodes("0", "0"), ()):
        with pytest.raises(GraphError):
            replace(a_record(), members=members, schedule=Schedule((A,), 1))
    for change in ({"start": -1}, {"number": -1}):
        with pytest.raises(GraphError):
            replace(a_record(), **change)


def test_record_with_a_schedule_of_other_members_raises() -> None:
    with pytest.raises(GraphError, match="unknown node '3'"):
        replace(a_record(), members=nodes("0", "1", "2"))


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "null", "1", "[]", "{}", "NaN", b"\xff\xfe", "[" * 100_000, "1" * 100_000],
)
def test_malformed_record_is_a_remote_error(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed plan record"):
        Record.from_json(text)


@pytest.mark.parametrize("junk", [True, 1.0, "1", None, [1]])
@pytest.mark.parametrize("key", ["number", "start", "term"])
def test_record_accepts_only_whole_numbers(key: str, junk: object) -> None:
    """True and 1.0 equal 1, but their text differs, so two nodes would disagree on the digest of equal records."""
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
def test_record_with_any_value_replaced_is_read_or_rejected(data: st.DataObject, junk: object) -> None:
    plain = json.loads(a_record().to_json())
    place = data.draw(st.sampled_from(places(plain)))
    read_or_reject(json.dumps(mutated(plain, place, junk)))


@given(st.data())
def test_record_with_any_value_missing_is_read_or_rejected(data: st.DataObject) -> None:
    plain = json.loads(a_record().to_json())
    *path, key = data.draw(st.sampled_from(places(plain)[1:]))
    holder = plain
    for step in path:
        holder = holder[step]
    del holder[key]
    read_or_reject(json.dumps(plain))


@given(st.integers(0, 400), st.binary(max_size=3))
def test_record_with_any_bytes_replaced_is_read_or_rejected(at: int, junk: bytes) -> None:
    text = a_record().to_json().encode()
    read_or_reject(text[:at] + junk + text[at + 1 :])


def read_or_reject(text: str | bytes) -> None:
    try:
        record = Record.from_json(text)
    except RemoteProtocolError:
        return
    assert Record.from_json(record.to_json()) == record


@pytest.mark.parametrize("key", ["number", "start", "term", "end"])
def test_numbers_of_a_record_have_a_range(key: str) -> None:
    for wrong in (-1, (1 << 48) + 1):
        with pytest.raises(RemoteProtocolError, match="malformed plan record: expected a whole number from 0 to"):
            Record.from_json(json.dumps(json.loads(a_record().to_json()) | {key: wrong}))


@pytest.mark.parametrize(("run_id", "most"), [("r", 1024), ("", 16384)], ids=["controller", "simulation"])
def test_run_has_a_limited_number_of_members(run_id: str, most: int) -> None:
    members = tuple(Member(f"n{i:05}") for i in range(most + 1))
    with pytest.raises(GraphError, match=f"{most + 1} members: at most {most} are allowed"):
        replace(a_record(), members=members, schedule=Schedule((A,), 1), run_id=run_id)
    replace(a_record(), members=members[1:], schedule=Schedule((A,), 1), run_id=run_id)
