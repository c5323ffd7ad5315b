"""What a member remembers of an average that it refused."""

from __future__ import annotations

import numpy as np

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.node.alarms import Alarms
from edgenode.node.stats import NodeStats


def test_run_that_trains_on_has_another_last_phase_ahead() -> None:
    config, stats = Config(), NodeStats(refused=True)  # as its checkpoint says
    spec = factory.algorithm_spec(config)
    learner = VectorLearner(spec, Layout((3,)), spec.initial(np.ones(3, np.float32)), 0, "n0")
    alarms = Alarms(config, learner, stats, newcomer=False)
    assert alarms.refusal is not None
    assert alarms.report_of_refusal(7) is None  # it was reported
    alarms.trained(None)
    assert alarms.refusal is None
    assert not stats.refused
