"""The door of a server: no call begins before its caller is checked, and no key takes all places.

1. A call is checked when it begins, before its request has arrived. A request that does not arrive in _REQUEST_S ends
   its call. So gRPC serves every method as one with a stream of requests, which is the same on the wire.
2. Calls in progress are counted: those of a key and a method, of a key, and of all keys of a role. One too many is
   refused. So operators have places that neither viewers nor nodes take, and nodes have some that viewers do not take.
3. The calls of a revoked key end at once, also if its owner reads nothing of what they send.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import structlog

from edgenode.net.front import peer_of
from edgenode.net.limited_log import limited
from edgenode.security.subject import Caller, Role

log = structlog.get_logger()

T = TypeVar("T")
Check = Callable[[str, grpc.aio.ServicerContext], Awaitable[Caller]]
"""Takes a method and the context of a call. Aborts the call if its caller may not call."""

MOST_OF_METHOD, MOST_OF_KEY = 32, 64
MOST_OF_ROLE: Mapping[Role, int] = {
    "controller": 64, "relay": 64, "operator": 256, "viewer": 256, "node": 4096,  # of 1,024 nodes
}  # fmt: skip
_REQUEST_S = 10.0


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Checks the caller of every call before the call begins, and counts it."""

    def __init__(self, check: Check, calls: LiveCalls) -> None:
        self._check, self._calls = check, calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(handler_call_details)
        return handler and _Guarded(handler, handler_call_details.method, self._check, self._calls)


class LiveCalls:
    """The calls in progress, by the key that the caller has shown.

    Attributes:
        revoked: the ids of keys that count no more.
    """

    def __init__(self) -> None:
        self.revoked: frozenset[str] = frozenset()
        self._work: dict[str, set[asyncio.Task[Any]]] = {}
        self._counts = Counter[Hashable]()  # by key and method, by key, and by role

    def revoke(self, key_ids: frozenset[str]) -> None:
        """End the calls of these keys."""
        self.revoked |= key_ids
        for key_id in key_ids & self._work.keys():
            log.warning("ending the calls of a revoked key", key=key_id[:16], calls=len(self._work[key_id]))
            for work in self._work[key_id]:
                work.cancel()

    def too_many(self, who: Caller, method: str) -> str:
        """Return why there is no place for one more call. Empty if there is one."""
        (subject, key_id), short = who, method.rpartition("/")[2]
        limits = (
            (f"of {short} with one key", (key_id, method), MOST_OF_METHOD),
            ("with one key", key_id, MOST_OF_KEY),
            (f"of the role {subject.role}", subject.role, MOST_OF_ROLE[subject.role]),
        )
        full = (f"{most} calls {of} are in progress" for of, counted, most in limits if self._counts[counted] >= most)
        return next(full, "")

    @contextmanager
    def counted(self, who: Caller, method: str) -> Iterator[None]:
        """Count a call as long as the body runs."""
        subject, key_id = who
        counted = Counter[Hashable]([(key_id, method), key_id, subject.role])
        self._counts += counted
        try:
            yield
        finally:
            self._counts -= counted  # which forgets what is zero

    async def run(self, key_id: str, work: Coroutine[Any, Any, T], context: grpc.aio.ServicerContext) -> T:
        """Do the work of a call. End the call if its key is revoked."""
        task = asyncio.create_task(work, name="call")
        self._work.setdefault(key_id, set()).add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if key_id in self.revoked and not _is_cancelled():
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the key was revoked")
            if not _is_cancelled():
                await context.abort(grpc.StatusCode.ABORTED, "the server ended the call")
            raise
        finally:
            self._work[key_id].discard(task)
            if not self._work[key_id]:
                del self._work[key_id]


def _is_cancelled() -> bool:
    """Return whether this task itself is cancelled, as when the caller hangs up."""
    return (task := asyncio.current_task()) is not None and task.cancelling() > 0


class _Guarded(grpc.RpcMethodHandler):  # type: ignore[misc]
    """A handler that is called when its caller was checked, has a place, and has sent its request."""

    def __init__(self, inner: grpc.RpcMethodHandler, method: str, check: Check, calls: LiveCalls) -> None:
        self.request_streaming, self.response_streaming = True, inner.response_streaming
        self.request_deserializer = inner.request_deserializer
        self.response_serializer = inner.response_serializer
        self.unary_unary = self.unary_stream = None
        self.stream_stream = self._serve if inner.response_streaming else None
        self.stream_unary = None if inner.response_streaming else self._serve
        behaviours = (inner.unary_unary, inner.unary_stream, inner.stream_unary, inner.stream_stream)
        self._behaviour: Callable[..., Any] = next(filter(None, behaviours))
        self._takes_one, self._method, self._check, self._calls = not inner.request_streaming, method, check, calls

    async def _serve(self, requests: AsyncIterable[Any], context: grpc.aio.ServicerContext) -> Any:
        received = cast("AsyncGenerator[Any, None]", aiter(requests))
        async with aclosing(received):  # or it keeps the last request until the next collection of garbage
            return await self._admit(received, context)

    async def _admit(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        who = await self._check(self._method, context)
        if why := self._calls.too_many(who, self._method):
            facts = {"method": self._method, "who": str(who[0]), "peer": peer_of(context), "reason": why}
            limited(log.warning, "refused a call", str(who[0]), why, **facts)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, why)
        with self._calls.counted(who, self._method):
            return await self._calls.run(who[1], self._work(requests, context), context)

    async def _work(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        request = await _only(requests, context) if self._takes_one else requests
        if not inspect.isasyncgenfunction(self._behaviour):
            return await self._behaviour(request, context)
        async with aclosing(self._behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)
        return None


async def _only(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
    """The request of a call that has one."""
    try:
        async with asyncio.timeout(_REQUEST_S):
            return await anext(aiter(requests))
    except (TimeoutError, StopAsyncIteration):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no request in {_REQUEST_S:g} s")
