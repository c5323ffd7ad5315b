from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RelayReport(_message.Message):
    __slots__ = ("name", "address", "traffic")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    traffic: _containers.RepeatedCompositeFieldContainer[RelayedTraffic]
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., traffic: _Optional[_Iterable[_Union[RelayedTraffic, _Mapping]]] = ...) -> None: ...

class RelayedTraffic(_message.Message):
    __slots__ = ("node", "connections", "bytes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    node: str
    connections: int
    bytes: int
    def __init__(self, node: _Optional[str] = ..., connections: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class RelayAccess(_message.Message):
    __slots__ = ("nodes", "revoked")
    NODES_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    revoked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., revoked: _Optional[_Iterable[str]] = ...) -> None: ...

class RelayRequest(_message.Message):
    __slots__ = ("to", "chunk", "only_waiting")
    TO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ONLY_WAITING_FIELD_NUMBER: _ClassVar[int]
    to: str
    chunk: bytes
    only_waiting: bool
    def __init__(self, to: _Optional[str] = ..., chunk: _Optional[bytes] = ..., only_waiting: _Optional[bool] = ...) -> None: ...

class RelayResponse(_message.Message):
    __slots__ = ("chunk", "waits")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    waits: bool
    def __init__(self, chunk: _Optional[bytes] = ..., waits: _Optional[bool] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...
