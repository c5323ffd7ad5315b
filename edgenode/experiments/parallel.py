"""Plays the runs of an experiment in processes of their own, several at once: each gives the bits it gives alone.

A worker that loses whoever gave it work ends with its next word; a run that it was in goes on from its last checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from edgenode.errors import EdgenodeError
from edgenode.experiments.definitions import Outcome
from edgenode.experiments.runner import Cell, Outcomes
from edgenode.node.memory import keep_freed_memory

if TYPE_CHECKING:
    from edgenode.simulate.runner import Simulation

_SAID_EVERY_S = 0.2


def play(todo: Sequence[Cell], outcomes: Outcomes, jobs: int) -> Generator[tuple[Cell, int | Outcome]]:
    """Play runs, ``jobs`` at once; each first says from which round it goes on, then how far it is, then its outcome.

    Close the generator to end the runs that are not done.

    Raises:
        EdgenodeError: what a run cannot be, or that its process died.
    """
    context, waiting = get_context("spawn"), iter(todo)
    processes, busy = [], {}
    try:
        for cell in islice(waiting, jobs):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, outcomes), daemon=True)
            with _without_ctrl_c():
                process.start()
            theirs.close()
            processes.append(process)
            busy[pipe] = process, cell
            pipe.send(cell)
        while busy:
            heard = connection.wait(list(busy))
            for pipe, (process, cell) in [item for item in busy.items() if item[0] in heard]:
                try:
                    said = pipe.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    why = f"the process that played {cell.name} ended with exit code {process.exitcode}"
                    raise EdgenodeError(why) from None
                if isinstance(said, EdgenodeError):
                    raise said
                if isinstance(said, int):
                    yield cell, said
                    continue
                del busy[pipe]
                for another in islice(waiting, 1):
                    busy[pipe] = process, another
                    pipe.send(another)
                yield cell, said
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """A process that is born here never hears of Ctrl-C: whoever gave birth to it does, and ends it."""
    resource_tracker.ensure_running()  # starting it with the first process would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, outcomes: Outcomes) -> None:
    """One run after the other, until nobody is there to hear of them."""
    keep_freed_memory()
    with suppress(EOFError, ConnectionError):
        while True:
            cell = pipe.recv()
            try:
                pipe.send(outcomes.play(cell, lambda simulation: _teller(simulation, pipe)))
            except EdgenodeError as exc:
                pipe.send(exc)


def _teller(simulation: Simulation, pipe: Connection) -> Callable[[], None]:
    """Says how far a run is, now and then."""
    pipe.send(simulation.round)
    said_s = time.monotonic()

    def tell() -> None:
        nonlocal said_s
        if time.monotonic() - said_s > _SAID_EVERY_S:
            pipe.send(simulation.round)
            said_s = time.monotonic()

    return tell
