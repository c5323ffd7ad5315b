"""Words that texts for people share."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and a noun: 1 node, 2 nodes."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
