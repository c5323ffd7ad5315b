"""Values <-> protobuf messages, by tables: each field has a converter, and what comes from outside is checked there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

V = TypeVar("V")
W = TypeVar("W")
M = TypeVar("M", bound=Message)
E = TypeVar("E", bound=Enum)


@dataclass(frozen=True)
class Converter(Generic[V, W]):
    """Both directions of one kind of value.

    Attributes:
        from_wire: also judges what comes from outside. It raises RemoteProtocolError.
        field: the field of the message that holds the value. Empty if it has the name of the value's attribute.
        kind: the type of the value, if it can be in a `one_of`.
    """

    to_wire: Callable[[V], W]
    from_wire: Callable[[W], V]
    field: str = ""
    kind: Callable[..., V] | None = None

    def at(self, field: str) -> Converter[V, W]:
        """Return this converter for a field with another name than the attribute."""
        return replace(self, field=field)


def judged(judge: Callable[[V], V]) -> Converter[V, V]:
    """A value that travels as it is, and is judged on arrival."""
    return Converter(_unchanged, judge)


def _unchanged(value: V) -> V:
    return value


AS_IS: Converter[Any, Any] = judged(_unchanged)


def each(item: Converter[V, W], most: int | None = None) -> Converter[tuple[V, ...], Any]:
    """The items of a repeated field. Those after ``most`` are ignored on arrival."""
    return Converter(
        lambda items: [item.to_wire(one) for one in items],
        lambda items: tuple(item.from_wire(one) for one in (items if most is None else items[:most])),
    )


def a_set(item: Converter[V, Any], most: int | None = None) -> Converter[frozenset[V], Any]:
    """The items of a repeated field in any order, sent in theirs. Those after ``most`` are ignored on arrival."""
    return Converter(sorted, lambda items: frozenset(map(item.from_wire, items if most is None else items[:most])))


def enum(kind: type[E], wire: EnumTypeWrapper[Any], prefix: str, unknown: E) -> Converter[E, Any]:
    """A value of an enum, by its name. ``unknown`` is that of numbers that this version does not know."""
    numbers = {value: wire.Value(f"{prefix}_{value.name}") for value in kind}
    values = {number: value for value, number in numbers.items()}
    return Converter(numbers.__getitem__, lambda n: values.get(n, unknown))


def message(
    kind: Callable[..., V], wire: type[M], check: Callable[[V], V] = _unchanged, /, **known: Converter[Any, Any]
) -> Converter[V, M]:
    """A dataclass whose attributes are the fields of a message.

    An attribute that is None is absent from the message. A field that is absent from a message has the default of the
    attribute.

    Args:
        check: judges the whole value on arrival.
        known: the converters of attributes by name. All others travel as they are.
    """
    table = []
    for attribute in fields(kind):  # type: ignore[arg-type]
        converter = known.get(attribute.name, AS_IS)
        field = wire.DESCRIPTOR.fields_by_name[converter.field or attribute.name]
        if converter is AS_IS and field.is_repeated:
            converter = each(AS_IS)
        has_default = attribute.default is not MISSING or attribute.default_factory is not MISSING
        table.append((attribute.name, field.name, converter, field.has_presence and has_default))

    def to_wire(value: V) -> M:
        found = ((field, converter, getattr(value, name)) for name, field, converter, _ in table)
        made: M = wire(**{field: converter.to_wire(one) for field, converter, one in found if one is not None})
        return made

    def from_wire(sent: M) -> V:
        return check(
            kind(**{
                name: converter.from_wire(getattr(sent, field))
                for name, field, converter, may_be_absent in table
                if not may_be_absent or sent.HasField(field)
            })
        )  # fmt: skip

    return Converter(to_wire, from_wire, kind=kind)


def one_of(wire: type[M], oneof: str, **fields: Converter[Any, Any]) -> Converter[Any, M]:
    """A value of one of several types, in a oneof of a message. None for a field that is not in the table."""
    by_kind = {converter.kind: (field, converter) for field, converter in fields.items()}

    def to_wire(value: object) -> M:
        field, converter = by_kind[type(value)]
        made: M = wire(**{field: converter.to_wire(value)})
        return made

    def from_wire(sent: M) -> Any:
        field = sent.WhichOneof(oneof)
        return fields[field].from_wire(getattr(sent, field)) if field in fields else None

    return Converter(to_wire, from_wire)
