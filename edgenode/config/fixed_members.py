"""Checks the settings of a run whose members are fixed, and which has a controller."""

from __future__ import annotations

from edgenode.config.sections import RunSection
from edgenode.errors import ConfigError


def check_fixed_members(run: RunSection, algorithm: str, apart: int) -> None:
    """Refuse what the controller could not do.

    Args:
        apart: the number of rounds by which nodes can be apart.

    Raises:
        ConfigError: a member would be evicted, or the members might have no checkpoint in common.
    """
    for key, value in (("on_poison", run.on_poison), ("straggler", run.straggler)):
        if value in ("evict", "drop"):
            raise ConfigError(
                f'run.{key} = "{value}": the members of a run of {algorithm} are fixed, so none is evicted'
            )
    if run.checkpoint_every < apart:
        raise ConfigError(
            f"run.checkpoint_every = {run.checkpoint_every}: nodes can be {apart} rounds apart, and resume from one of "
            f"the newest two checkpoints that all have, so with {algorithm} it must be {apart} or more"
        )
