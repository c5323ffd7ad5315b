from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RelayRequest(_message.Message):
    __slots__ = ("to", "chunk")
    TO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    to: str
    chunk: bytes
    def __init__(self, to: _Optional[str] = ..., chunk: _Optional[bytes] = ...) -> None: ...

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
