"""Names and other texts from outside, which logs, terminals and pages show.

What cannot be shown is replaced. What is not a name or the id of a key raises RemoteProtocolError.
"""

from __future__ import annotations

from edgenode import names
from edgenode.core.protocol.plan.record import is_key_id
from edgenode.errors import RemoteProtocolError

_MAX_REASON = 1000


def name_from_wire(text: str) -> str:
    """The name of a node or a cluster, from outside."""
    if not names.is_name(text):
        shown = ascii(text if len(text) <= names.MAX_LENGTH else f"{text[: names.MAX_LENGTH]}...")
        raise RemoteProtocolError(f"a process is named {shown}, but a name is {names.RULE}")
    return text


def key_id_from_wire(text: str) -> str:
    """The id of a key, from outside."""
    if not is_key_id(text):
        raise RemoteProtocolError("the id of a key is 64 hex digits")
    return text


def line_from_wire(text: str, most: int = 255) -> str:
    """Decode text that a log, a terminal or a page may show: one line of limited length."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def reason_from_wire(text: str) -> str:
    """Decode the reason of a node that aborts the run."""
    return line_from_wire(text, _MAX_REASON)
