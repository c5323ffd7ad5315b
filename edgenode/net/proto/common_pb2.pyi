from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Identity(_message.Message):
    __slots__ = ("cluster", "protocol", "node", "incarnation", "run_digest", "plan_digest", "process", "config", "workload_digest", "workload")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RUN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    protocol: int
    node: str
    incarnation: int
    run_digest: str
    plan_digest: str
    process: str
    config: str
    workload_digest: str
    workload: str
    def __init__(self, cluster: _Optional[str] = ..., protocol: _Optional[int] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., run_digest: _Optional[str] = ..., plan_digest: _Optional[str] = ..., process: _Optional[str] = ..., config: _Optional[str] = ..., workload_digest: _Optional[str] = ..., workload: _Optional[str] = ...) -> None: ...

class DataSize(_message.Message):
    __slots__ = ("samples", "samples_per_round")
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    samples: int
    samples_per_round: int
    def __init__(self, samples: _Optional[int] = ..., samples_per_round: _Optional[int] = ...) -> None: ...

class Saved(_message.Message):
    __slots__ = ("rounds", "records")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedScalarFieldContainer[int]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, rounds: _Optional[_Iterable[int]] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...
