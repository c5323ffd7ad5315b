"""The lag of mixing behind pushing, in which messages travel while their receivers train.

Between rounds a node mixes what is due, and then it begins the next round. Without an overlap that is the round before.
With an overlap of S it is the round S before that:

    overlap 0    train 0   push 0   mix 0     train 1   push 1   mix 1     train 2   push 2   mix 2    ...
    overlap 1    train 0   push 0             train 1   push 1   mix 0     train 2   push 2   mix 1    ...

1. Before round t begins, exactly the rounds before ``mixed_before(t)`` are mixed. Rounds that could be mixed already
   are not. So no bit depends on when a message arrives.
2. What receivers get of a message leaves x and u when it is pushed, and enters theirs when they mix it. A message in
   flight is like a node that holds it for S rounds: the weights of each sender still sum to 1, and no u is negative.
3. A round drains if all rounds before it are mixed before it begins. The first round of a record drains, and the round
   in which a member leaves, so members change while nothing is in flight. So does a round that begins with a
   checkpoint, which is therefore a consistent cut. The rounds of the last phase are in lock-step, and the run ends so:
   an allreduce begins when nothing is in flight, and so it does when it begins again (`last_phase`).
4. A node knows every record that drains a round before it begins that round (`flood`). So all nodes, and the
   controller, compute the same number for every round that a node has begun.
5. How far a process has mixed is what an eviction has to know of it (`eviction`). Its push of round t shows that it has
   mixed the rounds before ``mixed_before(t)``, and its answer to round s that it has mixed those before s + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.core.protocol.plan.plan import Plan


@dataclass(frozen=True)
class Lag:
    """When the rounds of a run are mixed: equal on all nodes.

    Attributes:
        overlap: S, by how many rounds mixing lags behind. 0 is lock-step.
        drain_every: rounds between two checkpoints, 0 for none.
    """

    overlap: int = 0
    drain_every: int = 0

    def mixed_before(self, plan: Plan, t: int) -> int:
        """The round before which all rounds are mixed when round t begins, t - overlap to t. It grows with t."""
        training = plan.at(t).rounds
        # precaution: nothing is in flight when the last phase begins
        if not self.overlap or (training is not None and t >= training):
            return t
        # precaution: nothing is in flight when a member leaves
        if plan.graph(t).leaving:
            return t
        # precaution: nothing is in flight when a record starts
        started = min(t, plan.at(t).start)
        # precaution: nothing is in flight when a checkpoint is taken
        saved = t - t % self.drain_every if self.drain_every else started
        return max(t - self.overlap, started, saved)

    def newest_push(self, plan: Plan, mixed: int) -> int:
        """The newest round that a node can push before it mixes round ``mixed``."""
        return max(t for t in range(mixed, mixed + self.overlap + 1) if self.mixed_before(plan, t) <= mixed)


LOCK_STEP = Lag()
"""Every round is mixed before the next one begins."""
