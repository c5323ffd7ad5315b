"""A controller's reply to an operator, in the words of the command line and of the page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgenode.core.protocol.events import Reply
from edgenode.core.topology.graph import GraphSpec
from edgenode.observability.status_view import sentence

TO_RESUME = "To resume from there, start edgenode controller, and edgenode run or the script of every node, again."
"""The advice after a stop."""


def to_show_run(state_dir: Path) -> str:
    """The command that shows the last run that the controller of a state folder recorded."""
    return f"edgenode runs show last --state-dir {shlex.quote(str(state_dir.absolute()))}"


def rotated(graphs: Sequence[GraphSpec], reply: Reply) -> str:
    """The reply to a change of the graphs."""
    name = f"graph {'+'.join(spec.name for spec in graphs)}"
    if reply.start is None:
        lines = [f"Queued: {name} takes effect {_after(reply)}."]
    else:
        lines = [f"{name} takes effect at round {reply.start} at every node"]
    if reply.replaces:
        lines.append(f"It replaces {reply.replaces}, which was queued.")
    return "\n".join([*lines, *_sentence(reply.difference), *_held(reply)])


def rotated_json(graphs: Sequence[GraphSpec], reply: Reply) -> dict[str, Any]:
    """The same facts for scripts. ``round`` is null if the change is queued."""
    return {
        "graph": "+".join(spec.name for spec in graphs),
        "round": reply.start,
        "queued": reply.start is None,
        "waits_for": reply.waits_for or None,
        "earliest_round": reply.earliest,
        "replaces": reply.replaces or None,
        "difference": reply.difference or None,
        "held_by": reply.held_by or None,
    }


def stopped(reply: Reply) -> str:
    """The reply to a stop."""
    if reply.start is None:
        return "\n".join([f"Queued: every node stops {_after(reply)}.", *_held(reply)])
    return "\n".join([f"every node stops before round {reply.start}", TO_RESUME, *_held(reply)])


def extended(rounds: int, reply: Reply) -> str:
    """The reply to a request to train longer."""
    if reply.start is None:
        return "\n".join([f"Queued: the run is extended to {rounds} rounds {_after(reply)}.", *_held(reply)])
    line = f"the run is extended to {rounds} rounds; every node knows it before round {reply.start}"
    return "\n".join([line, *_held(reply)])


def evicted(node: str, reply: Reply) -> str:
    """The reply to an eviction."""
    lines = [f"the run continues without {node} from round {reply.start}", *_sentence(reply.difference)]
    rejoins = (
        f"If {node} still runs or starts again, it rejoins if nodes can join. To keep it out: edgenode revoke {node}"
    )
    return "\n".join([*lines, rejoins])


def _after(reply: Reply) -> str:
    return f"after {reply.waits_for}, at round {reply.earliest} at the earliest"


def _held(reply: Reply) -> list[str]:
    """A change takes effect at a round, and the run does not come to that round."""
    return [f"The run stands until then: {reply.held_by}."] if reply.held_by else []


def _sentence(difference: str) -> list[str]:
    return [sentence(difference)] if difference else []
