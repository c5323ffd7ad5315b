from edgenode.net.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_RUNNING: _ClassVar[State]
    STATE_DONE: _ClassVar[State]
    STATE_STOPPED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
    STATE_PAUSED: _ClassVar[State]
STATE_UNSPECIFIED: State
STATE_RUNNING: State
STATE_DONE: State
STATE_STOPPED: State
STATE_FAILED: State
STATE_PAUSED: State

class AttendRequest(_message.Message):
    __slots__ = ("join", "progress", "answer", "fence_answer", "fetched", "leave", "abort", "new_key", "accusation", "training_ended", "stop_run")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    FENCE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    NEW_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCUSATION_FIELD_NUMBER: _ClassVar[int]
    TRAINING_ENDED_FIELD_NUMBER: _ClassVar[int]
    STOP_RUN_FIELD_NUMBER: _ClassVar[int]
    join: Join
    progress: Progress
    answer: OfferAnswer
    fence_answer: FenceAnswer
    fetched: Fetched
    leave: Leave
    abort: Abort
    new_key: NewKey
    accusation: Accusation
    training_ended: TrainingEnded
    stop_run: StopRun
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., answer: _Optional[_Union[OfferAnswer, _Mapping]] = ..., fence_answer: _Optional[_Union[FenceAnswer, _Mapping]] = ..., fetched: _Optional[_Union[Fetched, _Mapping]] = ..., leave: _Optional[_Union[Leave, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., new_key: _Optional[_Union[NewKey, _Mapping]] = ..., accusation: _Optional[_Union[Accusation, _Mapping]] = ..., training_ended: _Optional[_Union[TrainingEnded, _Mapping]] = ..., stop_run: _Optional[_Union[StopRun, _Mapping]] = ...) -> None: ...

class NewKey(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("identity", "address", "saved", "running", "follows", "data", "fence")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    identity: _common_pb2.Identity
    address: str
    saved: _common_pb2.Saved
    running: bool
    follows: Leadership
    data: _common_pb2.DataSize
    fence: Fence
    def __init__(self, identity: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., address: _Optional[str] = ..., saved: _Optional[_Union[_common_pb2.Saved, _Mapping]] = ..., running: _Optional[bool] = ..., follows: _Optional[_Union[Leadership, _Mapping]] = ..., data: _Optional[_Union[_common_pb2.DataSize, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ...) -> None: ...

class Leadership(_message.Message):
    __slots__ = ("term", "nonce", "address", "run_id", "signature")
    TERM_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    term: int
    nonce: str
    address: str
    run_id: str
    signature: str
    def __init__(self, term: _Optional[int] = ..., nonce: _Optional[str] = ..., address: _Optional[str] = ..., run_id: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("next_round", "number", "digest", "round", "rounds", "loss", "accuracy", "messages", "payload_bytes", "wire_bytes", "dense_bytes", "u", "waiting_for", "waiting_s", "state", "error", "peak_memory_bytes", "joules_per_round", "power_sensor", "gossip_bytes", "received_bytes", "round_s", "sketch_round", "sketch", "farewell", "faults", "alarms", "save_error", "save_error_s", "blocked", "metrics", "ways", "open_links")
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    WIRE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DENSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    U_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    WAITING_S_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    JOULES_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    POWER_SENSOR_FIELD_NUMBER: _ClassVar[int]
    GOSSIP_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUND_S_FIELD_NUMBER: _ClassVar[int]
    SKETCH_ROUND_FIELD_NUMBER: _ClassVar[int]
    SKETCH_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    ALARMS_FIELD_NUMBER: _ClassVar[int]
    SAVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    SAVE_ERROR_S_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WAYS_FIELD_NUMBER: _ClassVar[int]
    OPEN_LINKS_FIELD_NUMBER: _ClassVar[int]
    next_round: int
    number: int
    digest: str
    round: int
    rounds: int
    loss: float
    accuracy: float
    messages: int
    payload_bytes: int
    wire_bytes: int
    dense_bytes: int
    u: float
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    waiting_s: float
    state: State
    error: str
    peak_memory_bytes: int
    joules_per_round: float
    power_sensor: str
    gossip_bytes: int
    received_bytes: int
    round_s: float
    sketch_round: int
    sketch: _containers.RepeatedScalarFieldContainer[float]
    farewell: FenceAnswer
    faults: _containers.RepeatedCompositeFieldContainer[Fault]
    alarms: int
    save_error: str
    save_error_s: float
    blocked: _containers.RepeatedCompositeFieldContainer[BlockedLink]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    ways: _containers.RepeatedCompositeFieldContainer[Way]
    open_links: _containers.RepeatedCompositeFieldContainer[OpenLink]
    def __init__(self, next_round: _Optional[int] = ..., number: _Optional[int] = ..., digest: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., loss: _Optional[float] = ..., accuracy: _Optional[float] = ..., messages: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., wire_bytes: _Optional[int] = ..., dense_bytes: _Optional[int] = ..., u: _Optional[float] = ..., waiting_for: _Optional[_Iterable[str]] = ..., waiting_s: _Optional[float] = ..., state: _Optional[_Union[State, str]] = ..., error: _Optional[str] = ..., peak_memory_bytes: _Optional[int] = ..., joules_per_round: _Optional[float] = ..., power_sensor: _Optional[str] = ..., gossip_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., round_s: _Optional[float] = ..., sketch_round: _Optional[int] = ..., sketch: _Optional[_Iterable[float]] = ..., farewell: _Optional[_Union[FenceAnswer, _Mapping]] = ..., faults: _Optional[_Iterable[_Union[Fault, _Mapping]]] = ..., alarms: _Optional[int] = ..., save_error: _Optional[str] = ..., save_error_s: _Optional[float] = ..., blocked: _Optional[_Iterable[_Union[BlockedLink, _Mapping]]] = ..., metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., ways: _Optional[_Iterable[_Union[Way, _Mapping]]] = ..., open_links: _Optional[_Iterable[_Union[OpenLink, _Mapping]]] = ...) -> None: ...

class OpenLink(_message.Message):
    __slots__ = ("receiver", "round_trip_s", "bytes_per_s")
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    receiver: str
    round_trip_s: float
    bytes_per_s: float
    def __init__(self, receiver: _Optional[str] = ..., round_trip_s: _Optional[float] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class Way(_message.Message):
    __slots__ = ("receiver", "by")
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    receiver: str
    by: str
    def __init__(self, receiver: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class BlockedLink(_message.Message):
    __slots__ = ("receiver", "incarnation", "address", "reason", "blocked_s", "by")
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_S_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    receiver: str
    incarnation: int
    address: str
    reason: str
    blocked_s: float
    by: str
    def __init__(self, receiver: _Optional[str] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., reason: _Optional[str] = ..., blocked_s: _Optional[float] = ..., by: _Optional[str] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("peer", "kind", "count")
    PEER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    peer: str
    kind: str
    count: int
    def __init__(self, peer: _Optional[str] = ..., kind: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class OfferAnswer(_message.Message):
    __slots__ = ("number", "digest", "accepted", "next_round")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: str
    accepted: bool
    next_round: int
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[str] = ..., accepted: _Optional[bool] = ..., next_round: _Optional[int] = ...) -> None: ...

class FenceAnswer(_message.Message):
    __slots__ = ("term", "ballot", "begun", "begun_rounds", "records")
    class BegunRoundsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    TERM_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    BEGUN_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    term: int
    ballot: int
    begun: int
    begun_rounds: _containers.ScalarMap[str, int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, term: _Optional[int] = ..., ballot: _Optional[int] = ..., begun: _Optional[int] = ..., begun_rounds: _Optional[_Mapping[str, int]] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Fetched(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leave(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TrainingEnded(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopRun(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Abort(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Accusation(_message.Message):
    __slots__ = ("member", "incarnation", "round", "reason")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    member: str
    incarnation: int
    round: int
    reason: str
    def __init__(self, member: _Optional[str] = ..., incarnation: _Optional[int] = ..., round: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AttendResponse(_message.Message):
    __slots__ = ("welcome", "refusal", "offer", "standby", "fence", "eviction_committed", "sponsor", "leave_refused", "hello", "halt", "abort", "revoked", "restart", "ended", "relays", "observed")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    STANDBY_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    EVICTION_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SPONSOR_FIELD_NUMBER: _ClassVar[int]
    LEAVE_REFUSED_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HALT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    refusal: Refusal
    offer: Offer
    standby: Standby
    fence: Fence
    eviction_committed: EvictionCommitted
    sponsor: Sponsor
    leave_refused: str
    hello: Hello
    halt: Halt
    abort: Abort
    revoked: Revoked
    restart: Restart
    ended: Ended
    relays: Relays
    observed: Observed
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., standby: _Optional[_Union[Standby, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., eviction_committed: _Optional[_Union[EvictionCommitted, _Mapping]] = ..., sponsor: _Optional[_Union[Sponsor, _Mapping]] = ..., leave_refused: _Optional[str] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., halt: _Optional[_Union[Halt, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., revoked: _Optional[_Union[Revoked, _Mapping]] = ..., restart: _Optional[_Union[Restart, _Mapping]] = ..., ended: _Optional[_Union[Ended, _Mapping]] = ..., relays: _Optional[_Union[Relays, _Mapping]] = ..., observed: _Optional[_Union[Observed, _Mapping]] = ...) -> None: ...

class Relays(_message.Message):
    __slots__ = ("relays",)
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    relays: _containers.RepeatedCompositeFieldContainer[RelayAddress]
    def __init__(self, relays: _Optional[_Iterable[_Union[RelayAddress, _Mapping]]] = ...) -> None: ...

class RelayAddress(_message.Message):
    __slots__ = ("name", "address", "key")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    key: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class Observed(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedCompositeFieldContainer[ObservedAddress]
    def __init__(self, addresses: _Optional[_Iterable[_Union[ObservedAddress, _Mapping]]] = ...) -> None: ...

class ObservedAddress(_message.Message):
    __slots__ = ("node", "address")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    node: str
    address: str
    def __init__(self, node: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("leadership", "paused", "revoked")
    LEADERSHIP_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    leadership: Leadership
    paused: bool
    revoked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, leadership: _Optional[_Union[Leadership, _Mapping]] = ..., paused: _Optional[bool] = ..., revoked: _Optional[_Iterable[str]] = ...) -> None: ...

class Revoked(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ...) -> None: ...

class Restart(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Ended(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Halt(_message.Message):
    __slots__ = ("halted",)
    HALTED_FIELD_NUMBER: _ClassVar[int]
    halted: bool
    def __init__(self, halted: _Optional[bool] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("records", "round")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    round: int
    def __init__(self, records: _Optional[_Iterable[bytes]] = ..., round: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("record",)
    RECORD_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    def __init__(self, record: _Optional[bytes] = ...) -> None: ...

class Standby(_message.Message):
    __slots__ = ("present", "missing", "reason")
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    present: _containers.RepeatedScalarFieldContainer[str]
    missing: int
    reason: str
    def __init__(self, present: _Optional[_Iterable[str]] = ..., missing: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Fence(_message.Message):
    __slots__ = ("term", "ballot", "evicted", "number", "run_id", "signature")
    TERM_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    term: int
    ballot: int
    evicted: _containers.RepeatedScalarFieldContainer[str]
    number: int
    run_id: str
    signature: str
    def __init__(self, term: _Optional[int] = ..., ballot: _Optional[int] = ..., evicted: _Optional[_Iterable[str]] = ..., number: _Optional[int] = ..., run_id: _Optional[str] = ..., signature: _Optional[str] = ...) -> None: ...

class EvictionCommitted(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, records: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Sponsor(_message.Message):
    __slots__ = ("address", "others", "name", "names")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    address: str
    others: _containers.RepeatedScalarFieldContainer[str]
    name: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, address: _Optional[str] = ..., others: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...
