"""Stops a node whose loop ends before the run.

After a `break` (`loop_exit`), the node leaves. An exception in the body closes the generator of `Mesh.loop`, which
cannot see it. So the node stops as soon as the exception is known, and after `_KNOWN_S` in any case:

- An exception that the program does not handle reaches the hook of the interpreter, or that of a thread.
- A ``with`` block of the mesh ends with the exception.
- The program ends, or begins another loop.

A program that ends well while the loop of its main thread is open has left it too. Its node leaves.
"""

from __future__ import annotations

import atexit
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from edgenode.errors import described
from edgenode.mesh.node_thread import NodeThread
from edgenode.mesh.simulated_node import SimulatedNode

BROKE_OFF = "the loop ended before the run did (break?)"

_KNOWN_S = 1.0

_open: set[Ending] = set()  # of the nodes that run


class Ending:
    """The end of a node, which a loop of this thread trains.

    Args:
        leave: leaves the run, in this thread.

    Attributes:
        broke_off: the node was stopped before the run ended.
    """

    def __init__(self, node: NodeThread | SimulatedNode, leave: Callable[[], None]) -> None:
        self.broke_off = False
        self._leave = leave
        self._node, self._thread = node, threading.get_ident()
        self._lock, self._over = threading.RLock(), False
        self._timer: threading.Timer | None = None

    def begin(self) -> None:
        """The node starts."""
        _hook_in()
        _open.add(self)

    def run_ended(self) -> None:
        """Nothing stops the node any more."""
        with self._lock:
            self._over = True
        _open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def stop(self, reason: str) -> None:
        """Stop the node at once, if it runs, and report why. If another thread is stopping it, wait until it has."""
        with self._lock:
            if not self._over:
                self._over = self.broke_off = True
                self._node.stop(reason)
        self.run_ended()

    def stop_soon(self) -> None:
        """Stop the node when it is known why the loop ended."""
        if not self._over:
            self._timer = threading.Timer(_KNOWN_S, self.stop, (BROKE_OFF,))
            self._timer.daemon = True
            self._timer.start()

    def settle(self) -> None:
        """Stop the node now, if it stops soon."""
        if self._timer is not None:
            self.stop(BROKE_OFF)


def settle_all() -> None:
    """Stop the nodes whose loops have ended, before another loop takes their folder or their port."""
    for ending in list(_open):
        ending.settle()


@atexit.register
def _program_ends() -> None:
    """End all nodes. Their threads would otherwise meet an interpreter in ruins."""
    for ending in list(_open):
        if ending._timer is None and ending._thread == threading.get_ident():
            ending._leave()
        ending.stop(BROKE_OFF)


@functools.cache
def _hook_in() -> None:
    """Learn of the exceptions that end the program, or one of its threads. What is printed stays as it is."""
    before, before_in_thread = sys.excepthook, threading.excepthook

    def ends_program(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        _ended_by(error)

    def ends_thread(args: threading.ExceptHookArgs) -> None:
        before_in_thread(args)
        if args.exc_value is not None:
            _ended_by(args.exc_value)

    sys.excepthook, threading.excepthook = ends_program, ends_thread


def _ended_by(error: BaseException) -> None:
    for ending in list(_open):
        if ending._thread == threading.get_ident():
            ending.stop(described(error))


@contextmanager
def sigterm_leaves(node: NodeThread | SimulatedNode) -> Iterator[None]:
    """During the body, SIGTERM leaves the run as it does in a daemon. A second one interrupts the program.

    Only in the main thread, and only if the program does not handle SIGTERM itself.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        node.leave()

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
