"""What a member remembers of an average that it refused."""

from __future__ import annotations

import numpy as np

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.evaluation import Evaluation, Metric
from edgenode.node.alarms import Alarms
from edgenode.node.stats import NodeStats


def alarms_of(stats: NodeStats) -> Alarms:
    config = Config()
    spec = factory.algorithm_spec(config)
    learner = VectorLearner(spec, Layout((3,)), spec.initial(np.ones(3, np.float32)), 0, "n0")
    return Alarms(config, learner, stats, newcomer=False)


def test_run_that_trains_on_has_another_last_phase_ahead() -> None:
    stats = NodeStats(refused=True)  # as its checkpoint says
    alarms = alarms_of(stats)
    assert alarms.refusal is not None
    assert alarms.report_of_refusal(7) is None  # it was reported
    alarms.trained(None)
    assert alarms.refusal is None
    assert not stats.refused


def test_a_test_loss_that_rises_is_a_collapse_and_one_that_falls_is_none() -> None:
    """The losses of training, which stay small, do not count then."""
    for last, collapses in ((9.0, True), (0.01, False)):
        stats = NodeStats()
        alarms = alarms_of(stats)
        found = []
        for t, loss in enumerate([0.5] * 6 + [last]):
            alarms.trained(0.1)
            stats.evaluation = Evaluation(None, (Metric("loss", loss), Metric("auc", 0.5)))
            found.append(alarms.judge_evaluation(t + 1))
        assert [one is not None for one in found] == [False] * 6 + [collapses]
