"""What an algorithm requires of the graphs of a run, and why a schedule does not meet it. Values only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import GraphError


@dataclass(frozen=True)
class Requirements:
    """The conditions of an algorithm's paper, in addition to those of every schedule.

    Attributes:
        algorithm: its name, for the errors.
        balanced: W is doubly stochastic: its rows sum to 1 as its columns do.
        fixed: the run uses a single graph.
        d2_rate: the averaging rate at which D2 must be stable. None for every other algorithm.
    """

    algorithm: str = "sp"
    balanced: bool = False
    fixed: bool = False
    d2_rate: float | None = None

    def check(self, schedule: Schedule, members: tuple[str, ...]) -> None:
        """Refuse a schedule that does not meet the requirements over these members. The gossip graph is not checked.

        Raises:
            GraphError: which graph, and why.
        """
        if self == Requirements(self.algorithm):
            return  # any schedule is allowed, and building its graphs may be expensive
        graphs = [(spec.name, graph) for spec in schedule.graphs for graph in spec.period(members)]
        names = ", ".join(dict.fromkeys(name for name, _ in graphs))
        if self.fixed and len({graph for _, graph in graphs}) > 1:
            raise GraphError(
                f"{self.algorithm} cannot use {names}: its nodes keep state about their neighbours, so the graph must "
                "be the same in every round; sp and scsp can"
            )
        for name, graph in graphs:
            if self.balanced and not graph.balanced:
                raise GraphError(
                    f"{self.algorithm} cannot use {name}: it is unbalanced, so some nodes would count for more than "
                    "others; sp and sgp, which have push-sum weights, can"
                )
            if self.d2_rate is not None:
                _require_stable(name, graph, self.d2_rate)


def d2_growth(weights: NDArray[np.float64]) -> float:
    """The largest factor by which a round of D2 without gradients multiplies a disagreement. Below 1 is stable.

    1. Along an eigenvector of W with eigenvalue l, D2 makes x_t+1 = l (2 x_t - x_t-1).
    2. Its growth factors are the roots of r^2 = 2 l r - l.
    3. For real l both lie within the unit circle exactly if -1/3 < l < 1: the condition of Tang et al. 2018 on W.
    """
    modes = np.linalg.eigvals(weights).astype(complex)
    others = np.delete(modes, np.argmin(abs(modes - 1)))  # without that of the mean
    roots = [others + sign * np.sqrt(others**2 - others) for sign in (1, -1)]
    return float(abs(np.concatenate(roots)).max(initial=0))


def _require_stable(name: str, graph: Digraph, rate: float) -> None:
    identity = np.eye(len(graph.nodes))
    weights = identity + rate * (graph.mixing_matrix() - identity)
    if d2_growth(weights) < 1 - 1e-9:
        return
    if not np.allclose(weights, weights.T):
        raise GraphError(f"d2 cannot use {name}: its weights are not symmetric, and d2 would diverge; try two-way")
    smallest = np.linalg.eigvalsh(weights).min()
    raise GraphError(
        f"d2 cannot use {name} with algorithm.averaging_rate = {rate:g}: the smallest eigenvalue of its weights is "
        f"{smallest:.3g}, and must be above -1/3; averaging_rate = 0.5 always does"
    )
