from edgenode.net.proto import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_SEEN: _ClassVar[Verdict]
    VERDICT_STALE: _ClassVar[Verdict]
    VERDICT_ERROR: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_SEEN: Verdict
VERDICT_STALE: Verdict
VERDICT_ERROR: Verdict

class FetchModelRequest(_message.Message):
    __slots__ = ("identity", "own")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    identity: _common_pb2.Identity
    own: str
    def __init__(self, identity: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., own: _Optional[str] = ...) -> None: ...

class FetchModelResponse(_message.Message):
    __slots__ = ("chunk",)
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    def __init__(self, chunk: _Optional[bytes] = ...) -> None: ...

class MeetRequest(_message.Message):
    __slots__ = ("identity", "abort")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    identity: _common_pb2.Identity
    abort: str
    def __init__(self, identity: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., abort: _Optional[str] = ...) -> None: ...

class MeetResponse(_message.Message):
    __slots__ = ("identity", "saved", "data", "company")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    SAVED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    COMPANY_FIELD_NUMBER: _ClassVar[int]
    identity: _common_pb2.Identity
    saved: _common_pb2.Saved
    data: _common_pb2.DataSize
    company: str
    def __init__(self, identity: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., saved: _Optional[_Union[_common_pb2.Saved, _Mapping]] = ..., data: _Optional[_Union[_common_pb2.DataSize, _Mapping]] = ..., company: _Optional[str] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("hello", "header", "chunk", "done")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    hello: _common_pb2.Identity
    header: PushHeader
    chunk: bytes
    done: bool
    def __init__(self, hello: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., header: _Optional[_Union[PushHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., done: _Optional[bool] = ...) -> None: ...

class PushHeader(_message.Message):
    __slots__ = ("round", "number", "digest", "weight_parts", "weight", "u", "records", "payload_bytes", "begun_rounds")
    class BegunRoundsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_PARTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    U_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    BEGUN_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    round: int
    number: int
    digest: bytes
    weight_parts: int
    weight: float
    u: _containers.RepeatedScalarFieldContainer[float]
    records: _containers.RepeatedScalarFieldContainer[bytes]
    payload_bytes: int
    begun_rounds: _containers.ScalarMap[str, int]
    def __init__(self, round: _Optional[int] = ..., number: _Optional[int] = ..., digest: _Optional[bytes] = ..., weight_parts: _Optional[int] = ..., weight: _Optional[float] = ..., u: _Optional[_Iterable[float]] = ..., records: _Optional[_Iterable[bytes]] = ..., payload_bytes: _Optional[int] = ..., begun_rounds: _Optional[_Mapping[str, int]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("hello", "answers")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    hello: _common_pb2.Identity
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, hello: _Optional[_Union[_common_pb2.Identity, _Mapping]] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("round", "verdict", "knows", "detail", "records")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    KNOWS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    round: int
    verdict: Verdict
    knows: int
    detail: str
    records: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, round: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., knows: _Optional[int] = ..., detail: _Optional[str] = ..., records: _Optional[_Iterable[bytes]] = ...) -> None: ...
