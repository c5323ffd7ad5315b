"""The events of a simulated run as text, the same on every host. Its hash identifies the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np

from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.plan import Plan, Record


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
    match value:
        case str() | int() | float() | None:  # first, because most values are
            text = str(value)
        case Enum():
            text = value.name
        case Message():
            news = "".join(f"+{record.number}" for record in value.records)
            text = f"{value.sender}@{value.round}#{value.number}{news} {_hash(value.payload)}"
        case Record():
            text = f"#{value.number}@{value.start} {value.digest[:8]}"
        case Plan():
            text = f"plan#{value.latest.number}"
        case np.ndarray():
            numbers = value.tolist()
            text = brief(numbers) if len(numbers) == 1 else _hash(repr(numbers).encode())
        case tuple() | list():
            text = f"[{' '.join(map(brief, value))}]"
        case State():
            text = f"State({' '.join(map(brief, (*value.vectors.values(), value.u)))})"
        case frozenset():
            text = brief(sorted(value))
        case _ if names := _fields(value.__class__):
            text = f"{type(value).__name__}({' '.join([brief(getattr(value, name)) for name in names])})"
        case _:
            text = str(value)
    return text


@cache
def _fields(kind: type[object]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()


def _hash(data: bytes) -> str:
    return sha256(data).hexdigest()[:8]
