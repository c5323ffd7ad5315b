"""The names of nodes and clusters: one rule for the command line, run.toml, checkpoints and the wire.

A name is a folder, a part of DNS names, a metric label and a word of every log line. So it has no separator, no space
and no control character, and it does not begin with a dot.
"""

from __future__ import annotations

import re

MAX_LENGTH = 63
PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_LENGTH - 1}}}\Z"
CONTROLLER = "controller"
"""The name of a cluster's controller, and the folder of its state. No node and no person has it."""
RULE = f"1 to {MAX_LENGTH} ASCII letters, digits or ._-, the first a letter or digit"


def is_name(text: str) -> bool:
    """Return whether a node or a cluster can have this name."""
    return re.match(PATTERN, text) is not None


def to_name(text: str, default: str = "node") -> str:
    """The nearest name that a node can have: other characters become "-". The default if nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:MAX_LENGTH] or default
    return f"{name}-{default}" if name == CONTROLLER else name
