"""Names and other texts from outside, which logs, terminals and pages show.

What cannot be shown is replaced. What is not a name or the id of a key raises RemoteProtocolError.
"""

from __future__ import annotations

from edgenode import names
from edgenode.addresses import join_address, split_address
from edgenode.core.protocol.plan.record import is_key_id
from edgenode.errors import ConfigError, RemoteProtocolError

_MAX_REASON = 1000
_LONGEST_ADDRESS = 255


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


def address_from_wire(text: str) -> str:
    """host:port that a process can dial, from outside."""
    try:
        host, port = split_address(text[:_LONGEST_ADDRESS])
        if port:
            return join_address(host, port)
    except ConfigError:
        pass
    raise RemoteProtocolError(f"an address is {text[:80]!a}, but it must be HOST:PORT")


def line_from_wire(text: str, most: int = 255) -> str:
    """Decode text that a log, a terminal or a page may show: one line of limited length."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def reason_from_wire(text: str) -> str:
    """Decode the reason of a node that aborts the run."""
    return line_from_wire(text, _MAX_REASON)
