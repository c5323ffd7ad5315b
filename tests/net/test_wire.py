"""Messages survive the wire, and invalid ones are refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.canonical import canonical
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import DigestMismatch, RemoteProtocolError
from edgenode.net import wire
from edgenode.net.proto import peer_pb2
from edgenode.net.wire import Identity

SENDER = Identity("home", "n0", "run", incarnation=3)

uint64s = st.integers(0, 2**64 - 1)


def a_plan(changes: int = 0) -> Plan:
    graphs = (GraphSpec("a"), GraphSpec("odd", (("n0", "n1"), ("n1", "n2"), ("n2", "n0"))))
    plan = create_plan("home", [Member(f"n{i}", i, f"10.0.0.{i}:7600") for i in range(3)], Schedule(graphs, every=2))
    for change in range(changes):
        plan = plan.extend(plan.successor(10 * (change + 1)))
    return plan


# --- answers


@given(st.sampled_from(Verdict), uint64s, uint64s, st.text(st.sampled_from("ein Grund: 3 ≠ 4")))
def test_answer_survives_the_wire(verdict: Verdict, t: int, knows: int, detail: str) -> None:
    there = wire.ack_to_wire(Ack(t, verdict, knows, detail))
    assert wire.ack_from_wire("n1", there) == Ack(t, verdict, knows, detail)


@pytest.mark.parametrize("verdict", [0, 99])
def test_unknown_verdict_is_refused_with_its_sender(verdict: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"n1 answered with an unknown verdict {verdict}"):
        wire.ack_from_wire("n1", peer_pb2.Answer(verdict=verdict))


# --- plans


@pytest.mark.parametrize("changes", [0, 1, 5])
def test_plan_survives_the_wire(changes: int) -> None:
    plan = a_plan(changes)
    came = wire.plan_from_wire(wire.records_to_wire(plan.records))
    assert came == plan
    assert came is not None
    assert came.latest.digest == plan.latest.digest


def test_no_records_are_no_plan() -> None:
    assert wire.plan_from_wire([]) is None


def test_records_that_do_not_follow_each_other_are_refused() -> None:
    texts = wire.records_to_wire(a_plan(2).records)
    for wrong in ([texts[0], texts[2]], [texts[1], texts[0]], [texts[0], texts[0]]):
        with pytest.raises(RemoteProtocolError, match="does not follow"):
            wire.plan_from_wire(wrong)


def test_record_with_wrong_types_is_refused() -> None:
    (record,) = a_plan().records
    for key, value in (("start", "0"), ("start", -1), ("members", [["n0", 0]]), ("schedule", None), ("number", True)):
        text = json.dumps(json.loads(record.to_json()) | {key: value})
        with pytest.raises(RemoteProtocolError, match="malformed plan record"):
            wire.records_from_wire([text.encode()])


def test_record_of_more_members_than_devices_can_be_is_refused() -> None:
    members = [Member(f"n{i}") for i in range(1025)]
    record = create_plan("home", members, Schedule((GraphSpec("a"),), 1)).latest
    with pytest.raises(RemoteProtocolError, match="a record of 1025 members: at most 1024 are allowed"):
        wire.records_from_wire([record.to_json().encode()])


# --- identities


def test_identity_survives_the_wire() -> None:
    identity = Identity("home", "n1", "run", 5, "plan")
    assert Identity("home", "n0", "run", 1, "plan").check(identity.to_wire(), "there") == identity


def test_plan_digest_is_compared_only_if_both_sides_have_one() -> None:
    with_plan, without = Identity("home", "n1", "run", 0, "plan"), Identity("home", "n0", "run")
    assert with_plan.check(without.to_wire(), "there") == without
    assert without.check(with_plan.to_wire(), "there") == with_plan


@pytest.mark.parametrize(
    ("what", "changes", "ours", "theirs"),
    [
        ("cluster", {"cluster": "away"}, "home", "away"),
        ("run digest", {"run_digest": "f00d"}, "run", "f00d"),
        ("plan digest", {"plan_digest": "beef"}, "plan", "beef"),
        ("protocol version", {}, str(wire.PROTOCOL), "99"),
    ],
)
def test_mismatch_names_both_values_and_the_peer(what: str, changes: dict[str, str], ours: str, theirs: str) -> None:
    us = Identity("home", "n0", "run", 0, "plan")
    other = replace(us, node="n1", **changes).to_wire()
    if not changes:
        other.protocol = 99
    with pytest.raises(DigestMismatch) as caught:
        us.check(other, "10.0.0.1:7600")
    assert str(caught.value) == f"{what} differs from n1 at 10.0.0.1:7600: ours is {ours}, theirs is {theirs}"


def test_mismatch_of_run_toml_names_the_keys() -> None:
    ours, theirs = Config(), load(None, {"run.seed": 7, "task.alpha": 0.5}, {})
    one, other = (Identity("home", n, c.digest(), config=c.shared()) for n, c in (("n0", ours), ("n1", theirs)))
    with pytest.raises(DigestMismatch) as caught:
        one.check(other.to_wire(), "10.0.0.1:7600")
    assert str(caught.value) == (
        "run.toml of n0 differs from that of n1 at 10.0.0.1:7600: run.seed is 0, not 7; task.alpha is unset, not 0.5"
    )
    lies = replace(other, config=ours.shared()).to_wire()
    with pytest.raises(DigestMismatch, match="run digest differs from n1 at there: ours is "):
        one.check(lies, "there")


def test_configuration_that_is_too_long_does_not_travel() -> None:
    assert replace(SENDER, config="x" * 65_536).to_wire().config
    assert not replace(SENDER, config="x" * 65_537).to_wire().config


@pytest.mark.parametrize(
    "changes", [{"node": ""}, {"node": "\x1b[31m"}, {"node": "../../x"}, {"node": "n" * 5000}, {"cluster": "Küche"}]
)
def test_identity_without_valid_names_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError, match=r"a process is named '.{0,70}', but a name is 1 to 63 ASCII letters"):
        SENDER.check(replace(SENDER, **changes).to_wire(), "there")


def test_record_with_a_member_that_has_no_valid_name_is_refused() -> None:
    text = a_plan().latest.to_json().replace('"n2"', '"../n2"')
    with pytest.raises(RemoteProtocolError, match=r"'\.\./n2' is not a name"):
        wire.records_from_wire([text.encode()])


def test_mismatch_of_the_workload_names_the_parameters() -> None:
    shapes = ({"parameter fc.weight": "64x10"}, {"parameter fc.weight": "64x12"})
    one, other = (Identity("home", f"n{i}", "run", workload=canonical(shape)) for i, shape in enumerate(shapes))
    with pytest.raises(DigestMismatch) as caught:
        one.check(other.to_wire(), "there")
    assert str(caught.value) == (
        'the workload of n0 differs from that of n1 at there: parameter fc.weight is "64x10", not "64x12"'
    )
    assert one.check(Identity("home", "controller", "run").to_wire(), "there").node == "controller"
    assert Identity("home", "controller", "run").check(other.to_wire(), "there").node == "n1"


def test_a_workload_that_is_too_long_travels_as_its_digest() -> None:
    names = {f"parameter {i}.weight": "64x10" for i in range(5_000)}
    one, other = Identity("home", "n0", "run", workload=canonical(names)), Identity("home", "n1", "run", workload="{}")
    assert one.to_wire().workload == ""
    with pytest.raises(DigestMismatch, match="workload differs from n0 at there: ours is "):
        other.check(one.to_wire(), "there")


def test_digest_in_an_error_is_a_line() -> None:
    ours = Identity("home", "n1", "run", workload="{}")
    wire = Identity("home", "n0", "run").to_wire()
    wire.workload_digest = "\x1b[2J" + "x" * 1_000_000
    with pytest.raises(DigestMismatch, match=r"theirs is \?\[2Jx{251}$"):
        ours.check(wire, "there")
