"""A requested schedule over the members that a run has: as it is, without the absent nodes, or a substitute.

1. A schedule that fits the members is used as requested. Presets fit any members.
2. A list of edges names its nodes. If some of them are absent, the rest of its edges is used, provided that it is
   strongly connected (over one period, for a rotation) and meets the requirements of the algorithm.
3. Otherwise the first preset of `_SUBSTITUTES` that meets the requirements is used. `complete` always does. It also
   replaces a gossip graph that cannot be made for these members.

The result depends on the members alone. So the requested schedule is used again as soon as it fits again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError

_SUBSTITUTES = ("a", "two-way", "complete")


@dataclass(frozen=True)
class Adapted:
    """The schedule in use. ``difference``: what is used in place of the requested one, and why. Empty if nothing."""

    schedule: Schedule
    difference: str = ""


@lru_cache(maxsize=64)
def adapt(requested: Schedule, members: tuple[str, ...], requirements: Requirements) -> Adapted:
    """The schedule that is used over these members where this one was requested."""
    if not _misfit(requested, members, requirements):
        return Adapted(requested)
    name = requested.name
    absent = sorted(requested.named - set(members))
    rest = replace(requested, graphs=tuple(spec.among(members) for spec in requested.graphs))
    why = _misfit(rest, members, requirements)
    if not why:
        return Adapted(rest, f"graph {name} is used without the edges of {', '.join(absent)}")
    unnamed = sorted(set(members) - requested.named) if all(spec.edges is not None for spec in requested.graphs) else []
    if unnamed:
        why = f"{name} has no edge of {', '.join(unnamed)}"
    if absent:
        why = f"without {', '.join(absent)}, {why}"
    substitutes = [replace(requested, graphs=(GraphSpec(preset),), every=1) for preset in _SUBSTITUTES]
    last_resort = replace(substitutes[-1], last=requested.last and substitutes[-1].graphs[0])
    used = next((s for s in substitutes if not _misfit(s, members, requirements)), last_resort)
    return Adapted(used, f"graph {used.name} is used instead of {name}: {why}")


def _misfit(schedule: Schedule, members: tuple[str, ...], requirements: Requirements) -> str:
    """Why a schedule does not fit the members. Empty if it does."""
    try:
        schedule.check(members)
        requirements.check(schedule, members)
    except GraphError as exc:
        return str(exc)
    return ""
