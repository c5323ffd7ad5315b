"""The events of a simulated run as text, the same on every host. Its hash identifies the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record


class Transcript:
    """What each host did, when and why."""

    def __init__(self) -> None:
        self._events: list[tuple[float, str, Any, tuple[Any, ...]]] = []

    def add(self, now: float, host: str, cause: Any, actions: Sequence[Any]) -> None:
        """Add an event."""
        self._events.append((now, host, cause, tuple(actions)))

    @property
    def lines(self) -> list[str]:
        """One line for each event."""
        return [
            f"{now:.6f} {host} {brief(cause)} -> {', '.join(map(brief, actions))}"
            for now, host, cause, actions in self._events
        ]

    @property
    def digest(self) -> str:
        """SHA-256 of the lines. Equal digests mean equal runs."""
        return sha256("\n".join(self.lines).encode()).hexdigest()


def brief(value: Any) -> str:
    """A value as short text, the same on every host. Payloads and arrays are hashed."""
    return _brief(type(value))(value)


@cache
def _brief(kind: type[object]) -> Callable[[Any], str]:
    """How the values of a type are written."""
    forms: dict[type[object] | tuple[type[object], ...], Callable[[Any], str]] = {
        (str, int, float): str,
        Enum: attrgetter("name"),
        Message: _message,
        Record: lambda record: f"#{record.number}@{record.start} {record.digest[:8]}",
        Plan: lambda plan: f"plan#{plan.latest.number}",
        np.ndarray: _array,
        (tuple, list): lambda values: f"[{' '.join([brief(value) for value in values])}]",
        State: lambda state: f"State({' '.join(map(brief, (*state.vectors.values(), state.u)))})",
        frozenset: lambda values: brief(sorted(values)),
    }
    names = [f.name for f in fields(kind)] if is_dataclass(kind) else []
    if names:
        forms[object] = lambda value: f"{kind.__name__}({' '.join([brief(getattr(value, name)) for name in names])})"
    return next((form for base, form in forms.items() if issubclass(kind, base)), str)


def _message(message: Message) -> str:
    news = "".join(f"+{record.number}" for record in message.records)
    return f"{message.sender}@{message.round}#{message.number}{news} {_hash(message.payload)}"


def _array(array: NDArray[Any]) -> str:
    numbers = array.tolist()
    return brief(numbers) if len(numbers) == 1 else _hash(repr(numbers).encode())


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()[:8]
