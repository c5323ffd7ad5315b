"""The graphs that operators request, and the replies that they get <-> protobuf messages, in both directions."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from edgenode.core.protocol.events import UNREQUESTED, Reply
from edgenode.core.topology.graph import GraphSpec
from edgenode.net.converter import Converter
from edgenode.net.proto import operator_pb2 as pb

M = TypeVar("M", bound=Message)


def _graph_to_wire(spec: GraphSpec) -> pb.Graph:
    return pb.Graph(name=spec.name, edges=[pb.Edge(sender=s, receiver=r) for s, r in spec.edges or ()])


def _graph_from_wire(wire: pb.Graph) -> GraphSpec:
    return GraphSpec(wire.name, tuple((e.sender, e.receiver) for e in wire.edges) or None)


GRAPH = Converter(_graph_to_wire, _graph_from_wire)
"""A named graph. From the wire, it raises GraphError if the name is not a preset, or an edge is a duplicate."""


def reply_to_wire(reply: Reply, kind: type[M]) -> M:
    """Encode a reply as the response of a call, which has some of the fields of a reply."""
    values = {
        "start": reply.start or 0,
        "queued": pb.Queued(waits_for=reply.waits_for, earliest=reply.earliest or 0) if reply.waits_for else None,
        "replaces": reply.replaces,
        "difference": reply.difference,
        "held_by": reply.held_by,
    }
    response: M = kind(**{name: values[name] for name in kind.DESCRIPTOR.fields_by_name})
    return response


def reply_from_wire(response: Message) -> Reply:
    """Decode the response of a call as a reply."""
    values: dict[str, Any] = {field.name: value for field, value in response.ListFields()}
    start, queued = values.pop("start", 0), values.pop("queued", None)
    if queued is None:
        return Reply(UNREQUESTED, start, **values)
    return Reply(UNREQUESTED, None, waits_for=queued.waits_for, earliest=queued.earliest, **values)
