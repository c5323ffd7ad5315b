"""The settings of a run on devices: checks the number of members, and what fixed members need."""

from __future__ import annotations

from edgenode.config.sections import RunSection
from edgenode.core.protocol.plan.record import MAX_MEMBERS
from edgenode.errors import ConfigError


def check_number(run: RunSection) -> None:
    """Refuse more nodes than a run on devices can have.

    Raises:
        ConfigError: there are more.
    """
    if run.nodes > MAX_MEMBERS:
        raise ConfigError(
            f"run.nodes = {run.nodes}: a run on devices has at most {MAX_MEMBERS}; edgenode simulate takes more"
        )


def checkpoint_every(run: RunSection, exchange_rounds: int) -> int:
    """Return the rounds between two checkpoints: those of the configuration, rounded up to whole exchanges."""
    return -(-run.checkpoint_every // exchange_rounds) * exchange_rounds


def check_fixed_members(run: RunSection, algorithm: str, apart: int) -> None:
    """Refuse what the controller of a run with fixed members could not do.

    Args:
        apart: the number of rounds by which nodes can be apart.

    Raises:
        ConfigError: a member that answers would be evicted, or the members might have no checkpoint in common.
    """
    for key, value in (("on_poison", run.on_poison), ("straggler", run.straggler)):
        if value in ("evict", "drop"):
            raise ConfigError(
                f'run.{key} = "{value}": the members of a run of {algorithm} are fixed, so none that answers is evicted'
            )
    if run.checkpoint_every < apart:
        raise ConfigError(
            f"run.checkpoint_every = {run.checkpoint_every}: nodes can be {apart} rounds apart, and resume from one of "
            f"the newest two checkpoints that all have, so with {algorithm} it must be {apart} or more"
        )
