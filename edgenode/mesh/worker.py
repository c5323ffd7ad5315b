"""The user's thread as the worker of a node.

1. The node submits work from its event loop, in another thread. It waits in a queue.
2. The user's thread works for the node in `serve`, until it is the user's turn to train, or the node has ended.
3. `train` hands z over. That gives the user the turn. The local update is computed in the next `serve`.

So the model and the optimiser are only touched in the user's thread, and a round takes no more hops between threads
than that of a daemon, whose worker is a thread as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.events import Train, Trained
from edgenode.core.protocol.orders import Abort
from edgenode.errors import EdgenodeError

T = TypeVar("T")


@dataclass(frozen=True)
class _Item:
    """Work for the user's thread."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    done: Future[Any]
    gives_turn: bool = False


class UserThread:
    """A worker without a thread: the thread that calls ``serve`` is it.

    Args:
        hand_over: loads z [d] into the user's model at the begin of a round.

    Attributes:
        failure: what an item raised last.
    """

    def __init__(self, hand_over: Callable[[int, Floats], None]) -> None:
        self.failure: BaseException | None = None
        self._hand_over = hand_over
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()

    # --- the node's side ----------------------------------------------------------------------------

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        done: Future[T] = Future()
        return await self._submit(_Item(work, args, done), done)

    async def train(self, step: Callable[[Train], Trained | Abort], action: Train) -> Trained | Abort:
        done: Future[None] = Future()
        await self._submit(_Item(self._hand_over, (action.round, action.z), done, gives_turn=True), done)
        return await self(step, action)

    async def _submit(self, item: _Item, done: Future[T]) -> T:
        self._queue.put(item)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Drop what waits. The next process of the node continues with this worker."""
        try:
            while item := self._queue.get_nowait():
                item.done.cancel()
        except Empty:
            pass

    def end(self) -> None:
        """The node has ended."""
        self._queue.put(None)

    # --- the user's side ----------------------------------------------------------------------------

    def serve(self) -> bool:
        """Work for the node. Return whether it is the user's turn. If not, the node has ended."""
        while (item := self._queue.get()) is not None:
            if not item.done.set_running_or_notify_cancel():
                continue
            try:
                result = item.work(*item.args)
            except Exception as exc:
                self.failure = exc
                item.done.set_exception(exc)
            except BaseException:  # Ctrl-C
                item.done.set_exception(EdgenodeError("interrupted"))
                raise
            else:
                item.done.set_result(result)
                if item.gives_turn:
                    return True
        return False
