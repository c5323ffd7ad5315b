"""Every order and report survives the wire, and its bytes are those of earlier releases."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.core.protocol.observed import Observed, ObservedAddress
from edgenode.core.protocol.orders import (
    Abort,
    Accusation,
    Ended,
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Fetched,
    Halt,
    Hello,
    Join,
    LaterReport,
    Leadership,
    Leave,
    LeaveRefused,
    NewKey,
    Offer,
    OfferAnswer,
    Order,
    Progress,
    Refuse,
    Restart,
    Revoked,
    Sponsor,
    Standby,
    StopRun,
    TrainingEnded,
    Welcome,
)
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError
from edgenode.names import PATTERN
from edgenode.net.order_wire import (
    ORDERS,
    REPORTS,
    join_from_wire,
    join_to_wire,
    progress_to_wire,
    report_from_wire,
)
from edgenode.net.proto import common_pb2, control_pb2
from edgenode.net.status_wire import NODE_STATUS
from edgenode.net.wire import Identity

IDENTITY = Identity("home", "n0", "run", process="p")


def a_plan(changes: int) -> Plan:
    members = [Member(f"n{i}", i, f"10.0.0.{i}:7600") for i in range(3)]
    plan = create_plan("home", members, Schedule((GraphSpec("a"),), every=1))
    for change in range(changes):
        plan = plan.extend(plan.successor(10 * (change + 1)))
    return plan


uint64s = st.integers(0, 2**64 - 1)
rounds = st.integers(-1, 2**63 - 1)
texts = st.text(st.sampled_from("Grund: 3 ≠ 4"), max_size=5)
names = st.from_regex(PATTERN)
name_sets = st.frozensets(names, max_size=3)
text_tuples = st.lists(texts, max_size=3).map(tuple)
plans = st.integers(0, 3).map(a_plan)
leaderships = st.builds(Leadership, uint64s, texts, texts, texts, texts)
key_ids = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
keys = st.frozensets(key_ids, max_size=3)
fence_answers = st.builds(
    FenceAnswer,
    uint64s,
    uint64s,
    rounds,
    st.dictionaries(names, rounds, max_size=3).map(lambda begun: tuple(sorted(begun.items()))),
    plans.map(lambda plan: plan.records),
)
aborts = st.builds(Abort, st.from_regex(r"^[ -~]{0,9}\Z"))
fences = st.builds(Fence, uint64s, uint64s, name_sets, uint64s, texts, texts)
orders: st.SearchStrategy[Order] = st.one_of(
    st.builds(Hello, leaderships, st.booleans(), keys),
    st.builds(Revoked, keys),
    st.builds(Halt, st.booleans()),
    st.builds(Welcome, plans, uint64s),
    st.builds(Refuse, texts),
    st.builds(Standby, st.lists(names, max_size=3).map(tuple), uint64s, texts),
    st.builds(Sponsor, texts, text_tuples),
    st.builds(Offer, plans.map(lambda plan: plan.latest)),
    fences,
    st.builds(EvictionCommitted, plans.map(lambda plan: plan.records)),
    st.builds(LeaveRefused, texts),
    aborts,
)
joins = st.builds(
    Join,
    address=texts,
    run_digest=st.just(IDENTITY.run_digest),
    data=st.builds(DataSize, st.integers(0, 1 << 40), st.integers(1, 1 << 40)),
    saved=st.frozensets(st.integers(0, 2**53), max_size=3),
    plan=st.none() | plans,
    running=st.booleans(),
    process=st.just(IDENTITY.process),
    fence=st.none() | fences,
    follows=st.none() | leaderships,
)
progresses = st.builds(Progress, uint64s, uint64s, texts, st.none() | fence_answers)
reports: st.SearchStrategy[LaterReport] = st.one_of(
    st.builds(OfferAnswer, uint64s, texts, st.booleans(), uint64s),
    fence_answers,
    st.builds(Fetched),
    st.builds(Leave),
    st.builds(TrainingEnded),
    st.builds(StopRun),
    st.builds(NewKey, key_ids),
    aborts,
    st.builds(Accusation, st.one_of(st.just(""), names), uint64s, uint64s, st.just("why")),
)


def received(report: control_pb2.AttendRequest) -> control_pb2.AttendRequest:
    return control_pb2.AttendRequest.FromString(report.SerializeToString())


# --- the way there and back


@given(orders)
def test_every_order_survives_the_wire(order: Order) -> None:
    wire = control_pb2.AttendResponse.FromString(ORDERS.to_wire(order).SerializeToString())
    assert ORDERS.from_wire(wire) == order


@given(joins)
def test_first_report_survives_the_wire(join: Join) -> None:
    assert join_from_wire(received(join_to_wire(IDENTITY, join)).join) == join


@given(progresses, st.sampled_from(NodeState), st.integers(0, 2**53))
def test_progress_survives_the_wire_with_its_status(progress: Progress, state: NodeState, completed: int) -> None:
    status = NodeStatus(state, completed)
    wire = received(progress_to_wire(progress, status))
    assert report_from_wire(wire) == progress
    assert NODE_STATUS.from_wire(wire.progress) == status


@given(reports)
def test_every_other_report_survives_the_wire(
    report: LaterReport,
) -> None:
    assert report_from_wire(received(REPORTS.to_wire(report))) == report


# --- the bytes

PLAN = a_plan(0)
A_SIZE = DataSize(640, 32)
RECORD_BYTES = PLAN.latest.to_json().encode()
RECORD = RECORD_BYTES.hex()
FOLLOWED = Leadership(3, "be", "h:1")
ANSWER = FenceAnswer(3, 2, 7, (("n1", 6),), PLAN.records)


SENT_ORDERS: list[tuple[Order, str]] = [
    (Hello(FOLLOWED, True), "4a0f0a0b0803120262651a03683a311001"),
    (Halt(True), "52020801"),
    (Welcome(PLAN, 5), f"0a92020a8d02{RECORD}1005"),
    (Refuse("no"), "12040a026e6f"),
    (Standby(("n0",), 2), "22060a026e301002"),
    (Standby((), 0, "why"), "22051a03776879"),
    (Sponsor("h:1", ("h:2",)), "3a0a0a03683a311203683a32"),
    (Offer(PLAN.latest), f"1a90020a8d02{RECORD}"),
    (Fence(3, 2, frozenset({"n2", "n1"})), "2a0c080310021a026e311a026e32"),
    (EvictionCommitted(PLAN.records), f"3290020a8d02{RECORD}"),
    (LeaveRefused("no"), "42026e6f"),
    (Abort("no"), "5a040a026e6f"),
    (Revoked(frozenset({"b", "a"})), "62060a01610a0162"),
    (Restart("no"), "6a040a026e6f"),
    (Ended("n1"), "72040a026e31"),
    (Relays((RelayAddress("fra", "h:1", "b"),)), "7a0f0a0d0a036672611203683a311a0162"),
    (Observed((ObservedAddress("n1", "h:1"),)), "82010b0a090a026e311203683a31"),
]


def test_every_kind_of_order_is_checked() -> None:
    assert {type(order) for order, _ in SENT_ORDERS} == set(get_args(Order))


@pytest.mark.parametrize(("order", "sent"), SENT_ORDERS, ids=lambda value: type(value).__name__)
def test_bytes_of_orders_are_frozen(order: Order, sent: str) -> None:
    """Nodes and controllers of different releases work together."""
    assert ORDERS.to_wire(order).SerializeToString(deterministic=True).hex() == sent


SENT_REPORTS: list[tuple[LaterReport, str]] = [
    (OfferAnswer(4, "d", True, 9), "1a09080412016418012009"),
    (ANSWER, f"229e0208031002180e22060a026e31100c2a8d02{RECORD}"),
    (Fetched(), "2a00"),
    (Leave(), "3200"),
    (TrainingEnded(), "5200"),
    (StopRun(), "5a00"),
    (NewKey("ab" * 32), f"42420a40{'6162' * 32}"),
    (Abort("no"), "3a040a026e6f"),
    (Accusation("n1", 2, 7, "no"), "4a0c0a026e311002180722026e6f"),
]


def test_every_kind_of_report_is_checked() -> None:
    assert {type(report) for report, _ in SENT_REPORTS} == set(get_args(LaterReport))


@pytest.mark.parametrize(("report", "sent"), SENT_REPORTS, ids=lambda value: type(value).__name__)
def test_bytes_of_reports_are_frozen(report: LaterReport, sent: str) -> None:
    assert REPORTS.to_wire(report).SerializeToString(deterministic=True).hex() == sent


def test_bytes_of_progress_are_frozen() -> None:
    wire = progress_to_wire(Progress(9, 4, "d", ANSWER), NodeStatus(NodeState.RUNNING, 8))
    sent = f"12ad02080910041a016420087801ca019e0208031002180e22060a026e31100c2a8d02{RECORD}"
    assert wire.SerializeToString(deterministic=True).hex() == sent


def test_bytes_of_the_first_report_are_frozen() -> None:
    fence = Fence(3, 2, frozenset({"n2"}))
    wire = join_to_wire(IDENTITY, Join("h:2", "run", A_SIZE, frozenset({50, 25}), PLAN, True, "p", fence, FOLLOWED))
    sent = (
        "0ad2020a140a04686f6d6510041a026e302a0372756e3a01701203683a322294020a021932128d02"
        f"{RECORD}28013a0b0803120262651a03683a31420508800510204a08080310021a026e32"
    )
    assert wire.SerializeToString(deterministic=True).hex() == sent


# --- malformed messages


def test_unknown_order_is_ignored() -> None:
    assert ORDERS.from_wire(control_pb2.AttendResponse()) is None


def relays_order(**relay: str) -> control_pb2.AttendResponse:
    return control_pb2.AttendResponse(relays=control_pb2.Relays(relays=[control_pb2.RelayAddress(**relay)]))


def observed_order(*nodes: str, address: str = "h:1") -> control_pb2.AttendResponse:
    named = [control_pb2.ObservedAddress(node=node, address=address) for node in nodes]
    return control_pb2.AttendResponse(observed=control_pb2.Observed(addresses=named))


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (control_pb2.AttendResponse(welcome=control_pb2.Welcome()), "a welcome without a plan"),
        (control_pb2.AttendResponse(offer=control_pb2.Offer()), "malformed plan record"),
        (
            control_pb2.AttendResponse(eviction_committed=control_pb2.EvictionCommitted(records=[b"{"])),
            "malformed plan record",
        ),
        (control_pb2.AttendResponse(fence=control_pb2.Fence(evicted=["n 1"])), "a process is named 'n 1'"),
        (control_pb2.AttendResponse(standby=control_pb2.Standby(present=[""])), "a process is named ''"),
        (control_pb2.AttendResponse(hello=control_pb2.Hello(revoked=["k"])), "the id of a key is 64 hex digits"),
        (control_pb2.AttendResponse(revoked=control_pb2.Revoked(keys=["k" * 99])), "the id of a key is 64 hex digits"),
        (relays_order(name="n 1", address="h:1"), "a process is named 'n 1'"),
        (relays_order(name="fra", address="h"), "an address is 'h'"),
        (relays_order(name="fra", address="h:0"), "an address is 'h:0'"),
        (relays_order(name="fra", address="h" * 300 + ":1"), "but it must be HOST:PORT"),
        (relays_order(name="fra", address="h:1", key="k"), "the id of a key is 64 hex digits"),
        (observed_order("n 1"), "a process is named 'n 1'"),
        (observed_order("n1", address="h:0"), "an address is 'h:0'"),
    ],
    ids=[
        "welcome",
        "offer",
        "eviction",
        "no name in a fence",
        "no name in a standby",
        "no key",
        "no revoked key",
        "no name of a relay",
        "no address",
        "no port",
        "no short address",
        "no key of a relay",
        "no name of an observed node",
        "no observed port",
    ],
)
def test_malformed_order_is_refused(order: control_pb2.AttendResponse, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        ORDERS.from_wire(order)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (control_pb2.AttendRequest(), "unexpected report None"),
        (control_pb2.AttendRequest(join=control_pb2.Join()), "unexpected report 'join'"),
        (control_pb2.AttendRequest(fence_answer=control_pb2.FenceAnswer()), "a fence answer without a plan"),
        (
            control_pb2.AttendRequest(progress=control_pb2.Progress(farewell=control_pb2.FenceAnswer())),
            "a fence answer without a plan",
        ),
        (
            control_pb2.AttendRequest(
                fence_answer=control_pb2.FenceAnswer(begun_rounds={"../n1": 3}, records=[RECORD_BYTES])
            ),
            "a process is named '../n1', but a name is 1 to 63 ASCII letters",
        ),
    ],
    ids=["nothing", "join", "fence answer", "farewell", "no name"],
)
def test_malformed_report_is_refused(report: control_pb2.AttendRequest, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        report_from_wire(report)


def test_lists_and_texts_of_orders_have_a_limited_length() -> None:
    names = [f"n{number}" for number in range(2000)]
    sponsor = control_pb2.Sponsor(address="h:1\x1b[2J" + "1" * 1000, others=["h:2\n" * 100, *names])
    taken = ORDERS.from_wire(control_pb2.AttendResponse(sponsor=sponsor))
    assert isinstance(taken, Sponsor)
    assert (taken.address, len(taken.others)) == ("h:1?[2J" + "1" * 248, 1024)
    assert taken.others[0] == ("h:2?" * 100)[:255]
    standby = ORDERS.from_wire(control_pb2.AttendResponse(standby=control_pb2.Standby(present=names)))
    assert isinstance(standby, Standby) and len(standby.present) == 1024
    fence = ORDERS.from_wire(control_pb2.AttendResponse(fence=control_pb2.Fence(evicted=names, run_id="r" * 1000)))
    assert isinstance(fence, Fence) and (len(fence.evicted), len(fence.run_id)) == (1024, 255)
    observed = ORDERS.from_wire(observed_order(*names))
    assert isinstance(observed, Observed) and len(observed.addresses) == 1024


def test_rounds_that_a_fence_answer_names_are_limited() -> None:
    answer = control_pb2.FenceAnswer(begun_rounds={f"n{number}": 3 for number in range(5000)}, records=[RECORD_BYTES])
    with pytest.raises(RemoteProtocolError, match="the rounds of 5000 nodes: at most 4096"):
        report_from_wire(control_pb2.AttendRequest(fence_answer=answer))


def test_reason_of_an_abort_is_one_line_of_limited_length() -> None:
    wire = control_pb2.AttendRequest(abort=control_pb2.Abort(reason="a\n\x1b[0mb" + "c" * 2000))
    assert report_from_wire(wire) == Abort("a??[0mb" + "c" * 993)


def test_join_without_a_data_size_has_no_samples() -> None:
    assert join_from_wire(control_pb2.Join()).data == DataSize(0, 1)


@pytest.mark.parametrize(("samples", "per_round"), [(1 << 41, 1), (1, 0), (1, 1 << 41)])
def test_join_with_an_absurd_data_size_is_refused(samples: int, per_round: int) -> None:
    size = common_pb2.DataSize(samples=samples, samples_per_round=per_round)
    with pytest.raises(RemoteProtocolError, match=f"{samples} samples, of which a round uses {per_round}"):
        join_from_wire(control_pb2.Join(data=size))
