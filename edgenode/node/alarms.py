"""The poison alarms of one member, and the rounds until which its model is known to be good."""

from __future__ import annotations

from collections import Counter, deque

from edgenode.config.schema import Config
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.phase_judgement import Refusal
from edgenode.core.algorithm.poison_alarm import EvaluationWatch, PoisonAlarm
from edgenode.core.protocol.orders import Accusation
from edgenode.node.average import refusal_of
from edgenode.node.stats import NodeStats
from edgenode.node.workload import Trainer

_REFUSED_BEFORE = Refusal("its checkpoint says so", is_suspicious=False)  # which was reported


class Alarms:
    """What a member finds wrong, in messages, evaluations and the average of the last phase.

    Args:
        newcomer: it began in the middle of a run.

    Attributes:
        of_messages: inspects what is mixed.
        refusal: why the member keeps its own model in place of the average of the last phase. None if it does not.
    """

    def __init__(self, config: Config, learner: VectorLearner, stats: NodeStats, newcomer: bool) -> None:
        self._refuses = config.run.on_poison != "report"
        self.of_messages = PoisonAlarm(learner, self._refuses, config.algorithm.liars, newcomer)
        self.refusal = _REFUSED_BEFORE if stats.refused else None
        self._learner, self._stats, self._watch = learner, stats, EvaluationWatch(stats.good_until)
        self._of_member = Counter[str]()
        self._losses = deque[float](maxlen=1024)  # since the last evaluation

    @property
    def good_until(self) -> int | None:
        """While something is wrong, the newest round before it. Else None."""
        return self._watch.good_until

    def trained(self, loss: float | None) -> None:
        """Take the loss of a local step. After it, a run that is longer than before has its last phase ahead."""
        self.refusal, self._stats.refused = None, False
        if loss is not None:
            self._losses.append(loss)

    def judge_evaluation(self, t: int) -> Accusation | None:
        """After the evaluation of the model after ``t`` rounds: whether it collapsed, and what was mixed before.

        The last phase is not judged. Where the models are still far apart, their average can be worse than each.
        """
        if self._learner.algorithm_spec.gossips(t - 1):
            return None
        losses, score = self._losses, self._stats.accuracy
        loss = self._stats.evaluation.loss
        if loss is None and losses:
            loss = sum(losses) / len(losses)
        if score is None and loss is not None and loss > -1:
            score = 1 / (1 + loss)
        mixed = ", ".join(sorted(self.of_messages.mixed)) or "no other node"
        losses.clear()
        self.of_messages.mixed.clear()
        fell = self._watch.evaluated(t, score) if score is not None else ""
        return Accusation("", 0, t, f"{fell}; mixed since: {mixed}") if fell else None

    def note(self, accusation: Accusation) -> bool:
        """Count an alarm. Whether to report it: the first, second, fourth, ... of a member.

        A message that was mixed as it is leaves a model that may not be good any more.
        """
        if accusation.member and not self._refuses:
            self._watch.suspect(accusation.round)
        self._stats.count(alarms=1)
        self._of_member[accusation.member] += 1
        return self._of_member[accusation.member].bit_count() == 1

    def refuse_average(self, trainer: Trainer) -> bool:
        """After an allreduce, let the learner keep its own model if the average is worse. Return whether it does.

        A suspicious average is counted as an alarm.
        """
        result = self._learner.phase_result
        if result is None or (refusal := refusal_of(result, trainer)) is None:
            return False
        self._learner.refuse_average()
        self.refusal, self._stats.refused, self._stats.u = refusal, True, self._learner.u
        self._stats.count(alarms=int(refusal.is_suspicious))
        return True

    def report_of_refusal(self, t: int) -> Accusation | None:
        """The report, after ``t`` rounds, that this member refused a suspicious average, if it did."""
        if self.refusal is None or not self.refusal.is_suspicious:
            return None
        return Accusation("", 0, t, f"the average of the last phase is refused: {self.refusal.reason}")
