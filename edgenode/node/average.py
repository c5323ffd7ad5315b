"""What a member measures of the average that an allreduce gave it, before it takes that."""

from __future__ import annotations

from edgenode.core.algorithm.compression import CHUNK, Floats
from edgenode.core.algorithm.partial_sums import PhaseResult
from edgenode.core.algorithm.phase_judgement import COMMON_TEST, OWN_DATA, Refusal, judge, share_lost
from edgenode.node.workload import Trainer

_ALL_WRONG = 1.0


def refusal_of(result: PhaseResult, trainer: Trainer) -> Refusal | None:
    """Return why the member should keep its own model, or None."""
    initial, limits = trainer.untrained(), COMMON_TEST if trainer.tests_alike else OWN_DATA
    before, after = trainer.loss(result.before), _loss(result.average, result, trainer)
    if before is None or after is None:
        return judge(result, initial, None, limits)
    untrained = None if initial is None else _loss(initial, result, trainer)
    return judge(result, initial, share_lost(_ALL_WRONG if untrained is None else untrained, before, after), limits)


def _loss(z: Floats, result: PhaseResult, trainer: Trainer) -> float | None:
    """The loss of z [d]. The member's own model may lie where the trainer tests: then they are exchanged meanwhile."""
    if result.before is not trainer.staging:
        return trainer.loss(z)
    _exchange(z, result.before)
    try:
        return trainer.loss(result.before)
    finally:
        _exchange(z, result.before)


def _exchange(first: Floats, second: Floats) -> None:
    """Exchange the numbers of two vectors."""
    for begin in range(0, len(first), CHUNK):
        part = slice(begin, begin + CHUNK)
        kept = first[part].copy()
        first[part], second[part] = second[part], kept
