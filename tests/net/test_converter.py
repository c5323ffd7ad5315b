"""A table of fields converts a dataclass to a message and back, and judges what comes from outside."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import pytest

from edgenode.errors import RemoteProtocolError
from edgenode.net.converter import AS_IS, a_set, each, enum, judged, message, one_of
from edgenode.net.proto import control_pb2 as pb


@dataclass(frozen=True)
class Score:
    loss: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keys:
    keys: frozenset[str]


class Mood(Enum):
    RUNNING = 1
    DONE = 2


def refuse_no_text(text: str) -> str:
    if not text:
        raise RemoteProtocolError("no text")
    return text


SCORE = message(Score, pb.Progress, names=each(judged(refuse_no_text), most=2).at("waiting_for"))
KEYS = message(Keys, pb.Revoked, keys=a_set(AS_IS))


def test_absent_field_has_the_default_of_the_attribute() -> None:
    assert not SCORE.to_wire(Score()).HasField("loss")
    assert SCORE.from_wire(pb.Progress()) == Score()
    assert SCORE.from_wire(SCORE.to_wire(Score(0.0, ("a",)))) == Score(0.0, ("a",))


def test_items_are_judged_and_counted_on_arrival() -> None:
    assert SCORE.from_wire(pb.Progress(waiting_for=["a", "b", ""])).names == ("a", "b")
    with pytest.raises(RemoteProtocolError, match="no text"):
        SCORE.from_wire(pb.Progress(waiting_for=["a", ""]))


def test_whole_value_is_judged_on_arrival() -> None:
    def refuse(value: Keys) -> Keys:
        raise RemoteProtocolError(f"{len(value.keys)} keys")

    checked = message(Keys, pb.Revoked, refuse, keys=a_set(AS_IS))
    sent = checked.to_wire(Keys(frozenset({"b", "a"})))
    assert list(sent.keys) == ["a", "b"]
    with pytest.raises(RemoteProtocolError, match="2 keys"):
        checked.from_wire(sent)


def test_attribute_without_a_field_is_an_error_of_the_table() -> None:
    with pytest.raises(KeyError, match="names"):
        message(Score, pb.Progress)


def test_unknown_number_of_an_enum_has_its_own_value() -> None:
    mood = enum(Mood, pb.State, "STATE", unknown=Mood.RUNNING)
    assert mood.from_wire(pb.STATE_DONE) is Mood.DONE
    assert mood.from_wire(77) is Mood.RUNNING


def test_one_of_several_types_has_a_field_of_its_own() -> None:
    orders = one_of(pb.AttendResponse, "order", revoked=KEYS)
    keys = Keys(frozenset({"a"}))
    assert orders.to_wire(keys) == pb.AttendResponse(revoked=pb.Revoked(keys=["a"]))
    assert orders.from_wire(orders.to_wire(keys)) == keys
    assert orders.from_wire(pb.AttendResponse(halt=pb.Halt())) is None
