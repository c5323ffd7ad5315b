"""Whether this process is a node of a simulation, and its pipe to it."""

from __future__ import annotations

from multiprocessing.connection import Connection

from edgenode.errors import EdgenodeError

_pipes: list[Connection | None] = []  # of this process, at most one. None has been taken


def simulate_through(pipe: Connection) -> None:
    """Make this process a simulated node. Its Mesh takes part through the pipe, without a network."""
    _pipes[:] = [pipe]


def is_simulated() -> bool:
    """Return whether this process is a simulated node."""
    return bool(_pipes)


def take_pipe() -> Connection:
    """Return the pipe of this process, once.

    Raises:
        EdgenodeError: another loop has it.
    """
    (pipe,) = _pipes
    if pipe is None:
        raise EdgenodeError("mesh.loop: a script that is simulated has one loop, and this is the second")
    _pipes[:] = [None]
    return pipe
