"""Fits a requested schedule to the members and links of a run, or replaces it by a substitute.

1. A schedule that fits the members is used as requested. Presets fit any members.
2. A list of edges names its nodes. If some of them are absent, the rest of its edges is used, provided that it is
   strongly connected (over one period, for a rotation) and meets the requirements of the algorithm.
3. Otherwise the first preset of `_SUBSTITUTES` that meets the requirements is used. `complete` always does. It also
   replaces a gossip graph that cannot be made for these members.
4. Links that do not work are left out of all of these, one after the other. A link stays if nothing fits without it.

The result depends on the members and links only. The requested schedule returns as soon as it fits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.networks import at_of
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Link, Schedule
from edgenode.errors import GraphError

_SUBSTITUTES = ("a", "two-way", "complete")
_DETOURS = ("b", "c", *_SUBSTITUTES)  # around links that do not work, for which ring a may be the wrong one


@dataclass(frozen=True)
class Adapted:
    """The schedule in use. ``difference``: the substitute for the requested one, and why. Empty if there is none."""

    schedule: Schedule
    difference: str = ""


@lru_cache(maxsize=64)
def adapt(
    requested: Schedule, members: tuple[str, ...], requirements: Requirements, broken: tuple[Link, ...] = ()
) -> Adapted:
    """Return the schedule for these members if this one was requested.

    Args:
        broken: links that do not work, the most important to leave out first. Links of other nodes do not matter.
    """
    used = _over(replace(requested, without=()), members, requirements, _SUBSTITUTES)
    kept = list[Link]()
    for link in dict.fromkeys((s, r) for s, r in broken if s in members and r in members):
        without = tuple(sorted((*used.schedule.without, link)))
        further = _over(replace(requested, without=without), members, requirements, _DETOURS)
        if _misfit(further.schedule, members, requirements):
            kept.append(link)
        else:
            used = further
    left_out = used.schedule.without
    reasons = [used.difference] if used.difference else []
    if not reasons and _uses(used.schedule, members, left_out):
        reasons.append(f"graph {requested.name} is used without the broken {_named(left_out)}")
    if kept:
        reasons.append(f"no graph fits without the broken {_named(kept)}")
    return replace(used, difference="; ".join(reasons))


def _over(
    requested: Schedule, members: tuple[str, ...], requirements: Requirements, presets: tuple[str, ...]
) -> Adapted:
    """Steps 1 to 3, without the links that the schedule leaves out."""
    if not (why := _misfit(requested, members, requirements)):
        return Adapted(requested)
    name = requested.name
    absent = sorted(requested.named - set(members))
    if absent:
        rest = replace(requested, graphs=tuple(spec.among(members) for spec in requested.graphs))
        if not (why := _misfit(rest, members, requirements)):
            return Adapted(rest, f"graph {name} is used without the edges of {', '.join(absent)}")
    unnamed = sorted(set(members) - requested.named) if all(spec.edges is not None for spec in requested.graphs) else []
    if unnamed:
        why = f"{name} has no edge of {', '.join(unnamed)}"
    missing = [*absent, *(f"{s}->{r}" for s, r in requested.without)]
    if missing:
        why = f"without {', '.join(missing)}, {why}"
    at = at_of(requested.graphs[0].name) if requested.graphs[0].edges is None else ""
    substitutes = [replace(requested, graphs=(GraphSpec(f"{preset}{at}"),), every=1) for preset in presets]
    last_resort = replace(substitutes[-1], last=requested.last and substitutes[-1].graphs[0])
    used = next((s for s in substitutes if not _misfit(s, members, requirements)), last_resort)
    return Adapted(used, f"graph {used.name} is used instead of {name}: {why}")


def _uses(schedule: Schedule, members: tuple[str, ...], links: tuple[Link, ...]) -> bool:
    """Return whether one of the graphs would have one of these edges."""
    return any(graph.edges & set(links) for spec in schedule.graphs for graph in spec.period(members))


def _named(links: Sequence[Link]) -> str:
    return f"link{'s' if len(links) > 1 else ''} {', '.join(f'{s}->{r}' for s, r in links)}"


def _misfit(schedule: Schedule, members: tuple[str, ...], requirements: Requirements) -> str:
    """Return why a schedule does not fit the members. Empty if it does."""
    try:
        schedule.check(members)
        requirements.check(schedule, members)
    except GraphError as exc:
        return str(exc)
    return ""
