"""What a member measures of the average that an allreduce gave it, before it takes that."""

from __future__ import annotations

from edgenode.core.algorithm.partial_sums import PhaseResult
from edgenode.core.algorithm.phase_judgement import COMMON_TEST, OWN_DATA, Refusal, judge, share_lost
from edgenode.node.workload import Trainer

_ALL_WRONG = 1.0


def refusal_of(result: PhaseResult, trainer: Trainer) -> Refusal | None:
    """Return why the member should keep its own model, or None."""
    initial, limits = trainer.untrained(), COMMON_TEST if trainer.tests_alike else OWN_DATA
    before, after = trainer.loss(result.before), trainer.loss(result.average)
    if before is None or after is None:
        return judge(result, initial, None, limits)
    untrained = None if initial is None else trainer.loss(initial)
    return judge(result, initial, share_lost(_ALL_WRONG if untrained is None else untrained, before, after), limits)
