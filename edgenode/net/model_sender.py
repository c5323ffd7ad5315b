"""Sends the model of a node to newcomers, which may be slow, or lie.

1. A caller has one fetch, and a newer one ends the older. So a device that restarts does not wait for its dead call.
2. The model is made for one newcomer after the other, and this waits for no client. It is sent to _MOST_SENT at a time:
   each may have a model of a round of its own. Others wait for their turn.
3. A fetch ends when nothing of the model was read for _STALL_S, or after `longest_s`. So no client keeps a place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc.aio

from edgenode.errors import TransportError
from edgenode.net.newest import NewestCalls
from edgenode.net.proto import peer_pb2
from edgenode.net.wire import CHUNK_BYTES

_MOST_SENT = 4
_STALL_S = 30.0
_SLOWEST = 64 << 10  # bytes a second


def longest_s(size: int) -> float:
    """Return how long a model of so many bytes may take to send."""
    return _STALL_S + size / _SLOWEST


@dataclass(frozen=True)
class Model:
    """A model as it is sent.

    Attributes:
        data: safetensors.
        digest: the SHA-256, in hex, of what it must have in common with another one to be the same.
    """

    data: bytes
    digest: str


class ModelSender:
    """Sends what ``model`` makes.

    Args:
        model: takes the name of the node that asks.
    """

    def __init__(self, model: Callable[[str], Awaitable[Model]]) -> None:
        self._model = model
        self._fetches = NewestCalls()
        self._making, self._places = asyncio.Lock(), asyncio.Semaphore(_MOST_SENT)

    async def send(self, caller: str, node: str, own: str, context: grpc.aio.ServicerContext) -> None:
        """Stream the model to a node, or nothing if it has it already.

        Args:
            caller: has one fetch.
            own: the digest of the node's own model, or "".

        Raises:
            TransportError: the client has read too little in time, or has called again.
        """
        async with self._fetches.only(caller, f"{caller[:16]} has called again"), self._places:
            async with self._making:
                model = await self._model(node)
            if own == model.digest:
                return
            try:
                async with asyncio.timeout(longest_s(len(model.data))):
                    await _write(model.data, context)
            except TimeoutError:
                raise TransportError("this node read too little of the model") from None


async def _write(model: bytes, context: grpc.aio.ServicerContext) -> None:
    for at in range(0, len(model), CHUNK_BYTES):
        async with asyncio.timeout(_STALL_S):
            await context.write(peer_pb2.FetchModelResponse(chunk=model[at : at + CHUNK_BYTES]))
