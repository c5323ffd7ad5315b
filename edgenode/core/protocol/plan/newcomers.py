"""What a node that joins a run of exchanges may believe, and what it may bring.

It starts with what all others have alike at the beginning of an exchange. It takes that from one of them, and believes
it if most have the same.
"""

from __future__ import annotations

from edgenode.core.protocol.plan.plan import Plan


def members_before(plan: Plan, t: int) -> tuple[str, ...]:
    """The members of round t that were members before it, and so have what a node needs to join in it."""
    joined = plan.processes.joined
    return tuple(node for node, number in plan.at(t).incarnations.items() if joined(node, number) < t)


def is_confirmed(alike: int, members: int) -> bool:
    """Return whether a copy is the true one if so many of the members before have it, its giver included."""
    # precaution: a newcomer believes a copy that most of the others have
    return 2 * alike > members


def is_unsent(node: str, t: int, theirs: Plan, plan: Plan) -> bool:
    """Return whether what a node had not sent after t rounds is not part of the common model now.

    It is not if the others resumed from there without the node, and it has joined no run since.

    Args:
        theirs: the plan of the node's newest checkpoint. A resume of the node removes those of other histories.
    """
    first = plan.records[0]
    # precaution: what a member has sent is not brought again
    return t == first.start and first.parent == theirs.latest.digest and node not in first.names
