"""The plan of a run without a controller, which all nodes derive from the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.resume import restore_plan
from edgenode.core.topology.period import Epoch
from edgenode.errors import ConfigError


def agreed_plan(
    config: Config,
    saved: Mapping[str, tuple[frozenset[int], Plan | None]],
    epoch: Epoch,
    mask_keys: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Plan, int]:
    """Return the plan, and its first round.

    Args:
        saved: per node, the rounds of its checkpoints, and the plan in the newest of them, if any.
        mask_keys: per node, its key for masks, if messages are masked.

    Raises:
        GraphError: the graphs cannot carry the run, or no checkpoint round is common to all nodes.
        ConfigError: some nodes have checkpoints, not of the beginning, and others have none, or the run had more rounds
            before.
    """
    members, length = [Member(name, mask_key=mask_keys.get(name, "")) for name in saved], config.run.rounds
    offers = {name: (rounds, plan) for name, (rounds, plan) in saved.items() if plan is not None}
    if not offers:
        return create_plan(config.run.cluster, members, factory.schedule(config, epoch.rounds), epoch, rounds=length), 0
    newest = max((plan for _, plan in offers.values()), key=lambda p: p.latest.number)
    absent = sorted(set(saved) - set(offers))
    if absent and all(0 in rounds for rounds, _ in offers.values()):
        # They died before they had saved the beginning, which needs no checkpoint.
        offers |= {name: (frozenset({0}), newest) for name in absent}
    elif absent:
        lost, others = ", ".join(absent), ", ".join(sorted(offers))
        raise ConfigError(
            f"cannot resume: no checkpoint on {lost}, but on {others}; if {lost} has another --state-dir, or was "
            f"started with --fresh, bring its checkpoints back; only if they are lost for good, start all nodes with "
            "--fresh, which begins again from round 0"
        )
    if length < (newest.latest.rounds or 0):
        raise ConfigError(
            f"run.rounds = {length}, but the run that is to resume has {newest.latest.rounds}: a run can be extended, "
            "but not shortened; set the same number or a larger one, or start all nodes with --fresh"
        )
    return restore_plan(newest, members, offers, rounds=length)
