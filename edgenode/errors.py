"""Every exception that edgenode raises. The type states whose fault the error is."""

from __future__ import annotations

import json
from collections.abc import Iterable


class EdgenodeError(Exception):
    """The base of all errors of edgenode. Its text is one line, which the command line prints.

    Examples:
        >>> try:
        ...     for rows, digits in mesh.loop(loader):
        ...         mesh.step(loss=train(rows, digits))
        ... except edgenode.EdgenodeError as error:
        ...     print("this node is not in the run any more:", error)
    """


class ConfigError(EdgenodeError):
    """The user asked for something that is not possible: exit code 2. The text names the key and what is allowed.

    Examples:
        >>> try:
        ...     mesh = edgenode.Mesh(model, "run.toml", optimizer)
        ... except edgenode.ConfigError as error:
        ...     raise SystemExit(f"cannot start: {error}")
    """


class GraphError(ConfigError):
    """A communication graph cannot carry a run. The text gives the reason."""


class SecurityError(EdgenodeError):
    """A certificate, key or invite is missing, wrong, expired or readable by others. Nothing is done without it."""


class NotAdmitted(SecurityError):
    """The cluster refuses this device for good: exit code 3. Its key was revoked, or its invite is not valid.

    Examples:
        >>> try:
        ...     mesh = edgenode.Mesh(model, "run.toml", optimizer)
        ... except edgenode.errors.NotAdmitted as error:
        ...     raise SystemExit(f"ask for an invite: {error}")
    """


class LocalProtocolError(EdgenodeError):
    """A bug in edgenode: an event that the state machine can never receive. Crash, do not continue."""


class RemoteProtocolError(EdgenodeError):
    """A peer sent what the protocol forbids. Reject it and keep our state."""


class TransportError(EdgenodeError):
    """The network failed. The same call may succeed later."""


class NotYet(TransportError):
    """The other side has not come to what this one asks for. It is no fault: ask again."""


class ClockError(TransportError):
    """A certificate is not valid at the time that the clock of this device shows."""


class DigestMismatch(EdgenodeError):
    """The two sides of a handshake describe different runs. The text contains both values.

    Args:
        how: text that says it better than two digests.
    """

    def __init__(self, what: str, ours: str, theirs: str, peer: str, how: str = "") -> None:
        super().__init__(how or f"{what} differs from {peer}: ours is {ours}, theirs is {theirs}")
        self.what, self.ours, self.theirs, self.peer = what, ours, theirs, peer


class BarrierTimeout(EdgenodeError):
    """A round's deadline passed before the messages of all in-neighbours arrived."""

    def __init__(self, t: int, missing: tuple[str, ...]) -> None:
        super().__init__(f"round {t} timed out waiting for {', '.join(missing)}")
        self.round, self.missing = t, missing


class Evicted(EdgenodeError):
    """This process was evicted and is not a member any more. It may rejoin as a newcomer."""


class PeerRestarted(EdgenodeError):
    """Another process has replaced a peer, in a run whose members are fixed. All resume from a checkpoint."""


class Diverged(EdgenodeError):
    """Training diverged, at this node or at another. The run ends on every node, and the text is the cause."""


class SpoiledSum(Diverged):
    """The sum of masked messages is not that of what they hide. Nobody can tell whose message is wrong."""


class CheckpointError(EdgenodeError):
    """A checkpoint is missing, torn or of another run. It is refused by name and never loaded."""


class NoFreeFile(CheckpointError):
    """Nothing could be opened or written, because no file descriptor is free. Another attempt can succeed."""


class OtherRun(CheckpointError):
    """State on disk belongs to a run with another configuration. The text names the keys, or both digests."""


def one_of(choices: Iterable[object]) -> str:
    """A choice in words, for the text of an error: `"a", "b" or "c"`."""
    *others, last = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    return f"{', '.join(others)} or {last}" if others else last


_MEANINGS = {
    "CancelledError": "interrupted",
    "KeyboardInterrupt": "interrupted",
    "MemoryError": "out of memory",
    "TimeoutError": "no answer in time",
}


def in_words(error: BaseException) -> str:
    """Say in one line, which is never empty, why something failed: the error's text, or the meaning of its type."""
    cause = first_cause(error)
    kind = type(cause).__name__
    return " ".join(str(cause).split()) or _MEANINGS.get(kind, kind)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def described(error: BaseException) -> str:
    """Describe in one line an error of any code: the error in words, and the type of one that is not ours."""
    cause = first_cause(error)
    if isinstance(cause, EdgenodeError) or not str(cause).strip():
        return in_words(cause)
    return f"{type(cause).__name__}: {in_words(cause)}"


def first_cause(error: BaseException) -> BaseException:
    """The error that a task group failed with: one of edgenode's own if there is any, else the first."""
    while isinstance(error, BaseExceptionGroup):
        ours = [e for e in error.exceptions if isinstance(e, EdgenodeError | BaseExceptionGroup)]
        error = (ours or list(error.exceptions))[0]
    return error
