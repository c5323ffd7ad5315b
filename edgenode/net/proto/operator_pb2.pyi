from edgenode.net.proto import control_pb2 as _control_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ClusterStatus
    def __init__(self, status: _Optional[_Union[ClusterStatus, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ClusterStatus
    def __init__(self, status: _Optional[_Union[ClusterStatus, _Mapping]] = ...) -> None: ...

class OpenPageRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OpenPageResponse(_message.Message):
    __slots__ = ("link",)
    LINK_FIELD_NUMBER: _ClassVar[int]
    link: str
    def __init__(self, link: _Optional[str] = ...) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ("cluster", "missing", "records", "nodes", "rounds_per_epoch", "leadership", "unix_time_s", "paused", "evicting", "awaited", "consensus_distance", "consensus_round", "page", "reached", "departed_payload_bytes", "departed_dense_bytes", "time_left_s", "requested", "difference", "pending", "links", "relayed", "relays", "relay_processes")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_PER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEADERSHIP_FIELD_NUMBER: _ClassVar[int]
    UNIX_TIME_S_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    EVICTING_FIELD_NUMBER: _ClassVar[int]
    AWAITED_FIELD_NUMBER: _ClassVar[int]
    CONSENSUS_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    CONSENSUS_ROUND_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    REACHED_FIELD_NUMBER: _ClassVar[int]
    DEPARTED_PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEPARTED_DENSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    TIME_LEFT_S_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    RELAYED_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    RELAY_PROCESSES_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    missing: int
    records: _containers.RepeatedScalarFieldContainer[bytes]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeStatus]
    rounds_per_epoch: int
    leadership: _control_pb2.Leadership
    unix_time_s: float
    paused: bool
    evicting: _containers.RepeatedScalarFieldContainer[str]
    awaited: _containers.RepeatedScalarFieldContainer[str]
    consensus_distance: float
    consensus_round: int
    page: str
    reached: int
    departed_payload_bytes: int
    departed_dense_bytes: int
    time_left_s: float
    requested: str
    difference: str
    pending: _containers.RepeatedCompositeFieldContainer[PendingChange]
    links: _containers.RepeatedCompositeFieldContainer[LinkStatus]
    relayed: _containers.RepeatedCompositeFieldContainer[Relayed]
    relays: bool
    relay_processes: _containers.RepeatedCompositeFieldContainer[RelayStatus]
    def __init__(self, cluster: _Optional[str] = ..., missing: _Optional[int] = ..., records: _Optional[_Iterable[bytes]] = ..., nodes: _Optional[_Iterable[_Union[NodeStatus, _Mapping]]] = ..., rounds_per_epoch: _Optional[int] = ..., leadership: _Optional[_Union[_control_pb2.Leadership, _Mapping]] = ..., unix_time_s: _Optional[float] = ..., paused: _Optional[bool] = ..., evicting: _Optional[_Iterable[str]] = ..., awaited: _Optional[_Iterable[str]] = ..., consensus_distance: _Optional[float] = ..., consensus_round: _Optional[int] = ..., page: _Optional[str] = ..., reached: _Optional[int] = ..., departed_payload_bytes: _Optional[int] = ..., departed_dense_bytes: _Optional[int] = ..., time_left_s: _Optional[float] = ..., requested: _Optional[str] = ..., difference: _Optional[str] = ..., pending: _Optional[_Iterable[_Union[PendingChange, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[LinkStatus, _Mapping]]] = ..., relayed: _Optional[_Iterable[_Union[Relayed, _Mapping]]] = ..., relays: _Optional[bool] = ..., relay_processes: _Optional[_Iterable[_Union[RelayStatus, _Mapping]]] = ...) -> None: ...

class RelayStatus(_message.Message):
    __slots__ = ("name", "address", "connected", "last_seen_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    connected: bool
    last_seen_s: float
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., connected: _Optional[bool] = ..., last_seen_s: _Optional[float] = ...) -> None: ...

class Relayed(_message.Message):
    __slots__ = ("node", "connections", "bytes", "relay")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    RELAY_FIELD_NUMBER: _ClassVar[int]
    node: str
    connections: int
    bytes: int
    relay: str
    def __init__(self, node: _Optional[str] = ..., connections: _Optional[int] = ..., bytes: _Optional[int] = ..., relay: _Optional[str] = ...) -> None: ...

class LinkStatus(_message.Message):
    __slots__ = ("sender", "blocked", "left_out")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    sender: str
    blocked: _control_pb2.BlockedLink
    left_out: bool
    def __init__(self, sender: _Optional[str] = ..., blocked: _Optional[_Union[_control_pb2.BlockedLink, _Mapping]] = ..., left_out: _Optional[bool] = ...) -> None: ...

class PendingChange(_message.Message):
    __slots__ = ("change", "queued")
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    change: str
    queued: Queued
    def __init__(self, change: _Optional[str] = ..., queued: _Optional[_Union[Queued, _Mapping]] = ...) -> None: ...

class Queued(_message.Message):
    __slots__ = ("waits_for", "earliest")
    WAITS_FOR_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_FIELD_NUMBER: _ClassVar[int]
    waits_for: str
    earliest: int
    def __init__(self, waits_for: _Optional[str] = ..., earliest: _Optional[int] = ...) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node", "address", "connected", "last_seen_s", "progress", "holds_up", "holds_up_s")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_S_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    HOLDS_UP_FIELD_NUMBER: _ClassVar[int]
    HOLDS_UP_S_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    connected: bool
    last_seen_s: float
    progress: _control_pb2.Progress
    holds_up: _containers.RepeatedScalarFieldContainer[str]
    holds_up_s: float
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ..., connected: _Optional[bool] = ..., last_seen_s: _Optional[float] = ..., progress: _Optional[_Union[_control_pb2.Progress, _Mapping]] = ..., holds_up: _Optional[_Iterable[str]] = ..., holds_up_s: _Optional[float] = ...) -> None: ...

class RotateRequest(_message.Message):
    __slots__ = ("graphs", "every", "epochs", "may_queue")
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    EVERY_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAY_QUEUE_FIELD_NUMBER: _ClassVar[int]
    graphs: _containers.RepeatedCompositeFieldContainer[Graph]
    every: int
    epochs: bool
    may_queue: bool
    def __init__(self, graphs: _Optional[_Iterable[_Union[Graph, _Mapping]]] = ..., every: _Optional[int] = ..., epochs: _Optional[bool] = ..., may_queue: _Optional[bool] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("name", "edges")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    edges: _containers.RepeatedCompositeFieldContainer[Edge]
    def __init__(self, name: _Optional[str] = ..., edges: _Optional[_Iterable[_Union[Edge, _Mapping]]] = ...) -> None: ...

class Edge(_message.Message):
    __slots__ = ("sender", "receiver")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    sender: str
    receiver: str
    def __init__(self, sender: _Optional[str] = ..., receiver: _Optional[str] = ...) -> None: ...

class RotateResponse(_message.Message):
    __slots__ = ("start", "queued", "replaces", "difference", "held_by")
    START_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_FIELD_NUMBER: _ClassVar[int]
    start: int
    queued: Queued
    replaces: str
    difference: str
    held_by: str
    def __init__(self, start: _Optional[int] = ..., queued: _Optional[_Union[Queued, _Mapping]] = ..., replaces: _Optional[str] = ..., difference: _Optional[str] = ..., held_by: _Optional[str] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("may_queue",)
    MAY_QUEUE_FIELD_NUMBER: _ClassVar[int]
    may_queue: bool
    def __init__(self, may_queue: _Optional[bool] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ("start", "queued", "held_by")
    START_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_FIELD_NUMBER: _ClassVar[int]
    start: int
    queued: Queued
    held_by: str
    def __init__(self, start: _Optional[int] = ..., queued: _Optional[_Union[Queued, _Mapping]] = ..., held_by: _Optional[str] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("rounds", "may_queue")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    MAY_QUEUE_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    may_queue: bool
    def __init__(self, rounds: _Optional[int] = ..., may_queue: _Optional[bool] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("start", "queued", "held_by")
    START_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    HELD_BY_FIELD_NUMBER: _ClassVar[int]
    start: int
    queued: Queued
    held_by: str
    def __init__(self, start: _Optional[int] = ..., queued: _Optional[_Union[Queued, _Mapping]] = ..., held_by: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseResponse(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeResponse(_message.Message):
    __slots__ = ("round",)
    ROUND_FIELD_NUMBER: _ClassVar[int]
    round: int
    def __init__(self, round: _Optional[int] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("node", "force")
    NODE_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    node: str
    force: bool
    def __init__(self, node: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class EvictResponse(_message.Message):
    __slots__ = ("start", "difference")
    START_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    start: int
    difference: str
    def __init__(self, start: _Optional[int] = ..., difference: _Optional[str] = ...) -> None: ...
