"""Logs what others can cause as often as they like: the first time at once, and then a count once a minute.

1. A line is the same as an earlier one if event, source and cause are. Only the first one is logged. At the end of each
   minute, one line has the newest facts, and how many more there were.
2. A source has at most _MOST_CAUSES causes of an event, as causes may have text from outside. Others are counted.
3. At most _MOST_SOURCES are told apart. All others together are one more source.
4. A source that was quiet for a minute is forgotten: its next line is a first one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

_EVERY_S = 60.0
_MOST_CAUSES = 4
_MOST_SOURCES = 256


@dataclass
class _Seen:
    """The causes that were logged, and what came after them in this minute."""

    causes: set[str] = field(default_factory=set)
    more: int = 0
    newest: dict[str, object] = field(default_factory=dict)


_SEEN = WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Seen]]()  # by event and source


def limited(log: Callable[..., None], event: str, source: str, cause: str, **facts: object) -> None:
    """Log an event, or count it. To be called in an event loop.

    Args:
        log: the method of a logger.
        source: the name or the address of whoever caused it.
        cause: what distinguishes it from other events of this source. It does not appear in the log.
        facts: appear in the log.
    """
    seen = _SEEN.setdefault(asyncio.get_running_loop(), {})
    key = event, source
    if key not in seen and len(seen) >= _MOST_SOURCES:
        key = event, ""
    if key not in seen:
        seen[key] = _Seen()
        _wait(log, key, seen)
    of_source = seen[key]
    if cause not in of_source.causes and len(of_source.causes) < _MOST_CAUSES:
        of_source.causes.add(cause)
        log(event, **facts)
    else:
        of_source.more, of_source.newest = of_source.more + 1, facts


def address_of(peer: str) -> str:
    """The address of a peer of gRPC without its port, which every connection has another one of."""
    return peer.rpartition(":")[0] or peer


def _wait(log: Callable[..., None], key: tuple[str, str], seen: dict[tuple[str, str], _Seen]) -> None:
    asyncio.get_running_loop().call_later(_EVERY_S, _conclude, log, key, seen)


def _conclude(log: Callable[..., None], key: tuple[str, str], seen: dict[tuple[str, str], _Seen]) -> None:
    """Log the count of a minute."""
    of_source = seen[key]
    if not of_source.more:
        del seen[key]
        return
    log(key[0], **of_source.newest, more=of_source.more)
    of_source.more = 0
    _wait(log, key, seen)
