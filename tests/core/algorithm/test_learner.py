"""The learner: what an update rule is told of the round that it computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgenode.core.algorithm.algorithm_spec import UNCOMPRESSED, AlgorithmSpec
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate, compress_with_feedback, descend, mix_contributions
from edgenode.core.algorithm.update_rules import SPARSE_PUSH

LAYOUT = Layout((3, 5))
STEP = LocalUpdate(np.ones(LAYOUT.size, np.float32), is_difference=True)


def test_rule_knows_the_round_of_each_part_of_it() -> None:
    """Two rounds are pushed before the first is mixed, as with an overlap. A round exchanges one block of four."""
    calls: list[tuple[str, int]] = []

    def noted(name, function):  # type: ignore[no-untyped-def]
        def part(state, *arguments):  # type: ignore[no-untyped-def]
            calls.append((name, state.round))
            return function(state, *arguments)

        return part

    rule = replace(
        SPARSE_PUSH,
        apply_update=noted("update", descend),
        compress=noted("compress", compress_with_feedback),
        mix=noted("mix", mix_contributions),
    )
    spec = AlgorithmSpec(UNCOMPRESSED, 1.0, 9, blocks=4, rule=rule)
    learner = VectorLearner(spec, LAYOUT, spec.initial(np.zeros(LAYOUT.size, np.float32)), 0, "a")
    for t in (5, 6):
        learner.start()
        learner.compress_update(t, STEP)
    learner.mix_round(0.5, [])
    learner.mix_round(0.5, [])
    pushed = [(name, t) for t in (5, 6) for name in ("update", "compress")]
    assert calls == [*pushed, ("mix", 5), ("mix", 6)]
