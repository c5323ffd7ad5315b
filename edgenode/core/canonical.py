"""The facts that must be equal on every node of a run, as one text: its digest, and the differences of two texts.

Nodes compare digests. The texts travel too, so that an error can name the keys. A text from outside is believed only if
it is small and has the digest that its sender claims.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_LENGTH = 65_536
_SHOWN = 8
_KEY = re.compile(r"[ -~]{1,128}")
_ABSENT = object()


def canonical(values: Mapping[str, object]) -> str:
    """Values by key, as the same text on every machine."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """SHA-256 of a canonical text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def differences(one: str, other: str, other_digest: str) -> str:
    """The keys in which two canonical texts differ, each with both values. Empty if a text is absent or not credible.

    Args:
        other: a text from outside, which has to have ``other_digest``.
    """
    if not one or len(other) > MAX_LENGTH or digest(other) != other_digest:
        return ""
    try:
        lines = list(_lines(json.loads(one), json.loads(other)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "; ".join([*lines[:_SHOWN], *more])


def _lines(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in sorted({*one, *other}):
        ours, theirs = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if ours != theirs and _KEY.fullmatch(key):
            yield f"{key} is {_shown(ours)}, not {_shown(theirs)}"


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    text = "unset" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
