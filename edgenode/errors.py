"""Every exception edgenode raises, each named for whose fault it is."""

from __future__ import annotations


class EdgenodeError(Exception):
    """Base of all: what the command line prints as one line."""


class ConfigError(EdgenodeError):
    """The user asked for something that cannot be: exit code 2."""


class GraphError(ConfigError):
    """A communication graph that cannot carry a run, with the reason."""


class LocalProtocolError(EdgenodeError):
    """Our own bug: an event that the state machine can never see. Crash, do not continue."""


class RemoteProtocolError(EdgenodeError):
    """A peer sent what the protocol forbids: reject it and keep our state."""


class TransportError(EdgenodeError):
    """The network failed; the same call may succeed later."""


class DigestMismatch(EdgenodeError):
    """Two sides of a handshake describe different runs; both values are in the text."""

    def __init__(self, what: str, ours: str, theirs: str, peer: str) -> None:
        super().__init__(f"{what} differs from {peer}: ours is {ours}, theirs is {theirs}")
        self.what, self.ours, self.theirs, self.peer = what, ours, theirs, peer


class BarrierTimeout(EdgenodeError):
    """A round's deadline passed before every in-neighbour's message was there."""

    def __init__(self, t: int, missing: tuple[str, ...]) -> None:
        super().__init__(f"round {t} timed out waiting for {', '.join(missing)}")
        self.round, self.missing = t, missing


class Evicted(EdgenodeError):
    """This process is no member any more: it was taken for dead. It may come back as a newcomer."""


class CheckpointError(EdgenodeError):
    """A checkpoint is absent, torn or of another run: refused by name, never loaded wrong."""


class OtherRun(CheckpointError):
    """State on disk that is of a run with another configuration; both digests are in the text."""


def first_cause(error: BaseException) -> BaseException:
    """What a task group failed with: one of our own errors if there is any, else the first."""
    while isinstance(error, BaseExceptionGroup):
        ours = [e for e in error.exceptions if isinstance(e, EdgenodeError | BaseExceptionGroup)]
        error = (ours or list(error.exceptions))[0]
    return error
