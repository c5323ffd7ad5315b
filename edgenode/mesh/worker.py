"""The user's thread as the worker of a node.

1. The node submits work from its event loop, in another thread. It waits in a queue.
2. The user's thread works for the node in `serve`, until it is the user's turn to train, or the node has ended.
3. The item of a local step hands z over. That gives the user the turn. The next `serve` takes what came out.

So the model and the optimiser are only touched in the user's thread, and a round takes no more hops between threads
than that of a daemon, whose worker is a thread as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from edgenode.core.algorithm.trained_model import LazyModel
from edgenode.core.protocol.events import Train
from edgenode.errors import EdgenodeError

T = TypeVar("T")


@dataclass(frozen=True)
class _Item:
    """Work for the user's thread.

    Attributes:
        z: the model of a round that the user trains, before ``work`` is done.
    """

    work: Callable[..., Any]
    args: tuple[Any, ...]
    done: Future[Any]
    z: LazyModel | None = None


class UserThread:
    """A worker without a thread: the thread that calls ``serve`` is it.

    Args:
        hand_over: loads z [d] into the user's model at the start of a round.

    Attributes:
        failure: the last error of an item.
    """

    def __init__(self, hand_over: Callable[[int, LazyModel], None]) -> None:
        self.failure: BaseException | None = None
        self._hand_over = hand_over
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._step: _Item | None = None  # the local step that the user takes now

    # --- the node's side ----------------------------------------------------------------------------

    async def __call__(self, work: Callable[..., T], *args: Any) -> T:
        done: Future[T] = Future()
        self._queue.put(_Item(work, args, done))
        return await asyncio.wrap_future(done)

    async def train(self, step: Callable[[Train], T], action: Train, may_wait: bool = False) -> T:
        done: Future[T] = Future()
        self._queue.put(_Item(step, (action,), done, action.z))
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

    def surfaced(self, error: BaseException) -> BaseException:
        """Return the error that the node failed with, for the user. Only an error of the user keeps its traceback."""
        if error is not self.failure or isinstance(error, EdgenodeError):
            error.__traceback__ = None
        return error

    # --- the user's side ----------------------------------------------------------------------------

    def serve(self) -> bool:
        """Work for the node. Return whether it is the user's turn. If not, the node has ended."""
        if (step := self._step) is not None:
            self._step = None
            with self._reporting_to(step.done):
                step.done.set_result(step.work(*step.args))
        while (item := self._queue.get()) is not None:
            if not item.done.set_running_or_notify_cancel():
                continue
            with self._reporting_to(item.done):
                if item.z is not None:
                    self._hand_over(item.args[0].round, item.z)
                    self._step = item
                    return True
                item.done.set_result(item.work(*item.args))
        return False

    @contextmanager
    def _reporting_to(self, done: Future[Any]) -> Iterator[None]:
        """Report an error of the body to the node. It is the node that fails."""
        try:
            yield
        except Exception as exc:
            self.failure = exc
            done.set_exception(exc)
        except BaseException:  # Ctrl-C
            done.set_exception(EdgenodeError("interrupted"))
            raise
