"""The update rules: how a round changes a node's ``State``.

SPARSE_PUSH and DIFFERENCE are here, and D2 and DILOCO in modules of their own. edgenode-lab has variants of the first
two. Every built-in algorithm is one of these rules, with a compressor, an averaging rate and requirements on the
graphs. ``W`` is column-stochastic, W[receiver, sender], and C the compressor.

    SPARSE_PUSH   sends C[x-hat + error]: Sparse-Push, SGP, D-PSGD, Deep-Squeeze
    D2            the same, after a local step corrected by the one before
    DIFFERENCE    sends C[x-hat - known]: CHOCO-SGD, Quant-SGP
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    Sent,
    State,
    compress_with_feedback,
    descend,
    mix_contributions,
)
from edgenode.core.topology.graph import Digraph

# Table 5: kept share -> averaging rate
_TABLE_5 = ((0.001, 0.001), (0.01, 0.005), (0.1, 0.01), (0.5, 0.08), (1.0, 1.0))


def default_averaging_rate(kept: float, contraction: float = 1.0) -> float:
    """eta for a kept share p in (0, 1]: Table 5, log-interpolated. Below 0.1 % it is p, which still converges."""
    if kept <= _TABLE_5[0][0]:
        return kept
    shares, rates = zip(*_TABLE_5, strict=True)
    return float(np.exp(np.interp(math.log(kept), np.log(shares), np.log(rates))))


def default_difference_rate(kept: float, contraction: float) -> float:
    """gamma of CHOCO-SGD and Quant-SGP: twice the contraction, half of where top-k begins to oscillate."""
    return min(1.0, 2 * contraction)


def constant_rate(rate: float, t: int) -> float:
    """Return the same eta for every round."""
    return rate


@dataclass(frozen=True)
class UpdateRule:
    """The three parts of a round, in the order of their calls, and what they need. ``State.round`` is its number.

    Attributes:
        keeps: the vectors of ``State`` that it needs in addition to x. "error" is what compression has left out.
        sends: the vectors of which a message has C, one after the other: x, and others from ``keeps``. ``compress`` is
            given the layout of all of them. What mixing moves of each, an undone push and a hand-off move, too.
        apply_update: changes the state by the local update, the optimiser's step on z.
        compress: makes the round's payload.
        mix: ends the round, given the own message, the own weight and the contributions in sender order.
        fixed: the state depends on the neighbours. Graph and members must not change, and no push can be undone.
        spans_period: an exchange takes one period of the graph, and a node trains only before the first of its rounds.
            After the period all nodes must have the same model. The graph may then change within it.
        default_rate: eta, given the kept share p and the contraction of the compressor.
        largest_rate: the largest eta that is allowed. None if only the kept share limits it.
        common: what all nodes have alike when an exchange begins, given whether it has begun: x, and what a node needs
            besides to join it. None admits no node to a run under way.
        join: sets the vectors of the first state of such a node, whose x is the common one.
        rate_at: eta of a round, given the largest of the run and the round's number. All nodes compute the same.
        begin: sets the vectors of the first state, whose x is the common model. None leaves zeros.
        check_graph: refuses, with a GraphError, a graph that the rule does not converge on, given its name and eta.
    """

    keeps: tuple[str, ...]
    apply_update: Callable[[State, Floats], None]
    compress: Callable[[State, Compressor, Layout, np.random.Generator], Payload]
    mix: Callable[[State, Sent, float, Sequence[Contribution]], None]
    fixed: bool = False
    spans_period: bool = False
    default_rate: Callable[[float, float], float] = default_averaging_rate
    largest_rate: float | None = None
    check_graph: Callable[[str, Digraph, float], None] | None = None
    begin: Callable[[State], None] | None = None
    common: Callable[[State, bool], dict[str, Floats]] | None = None
    join: Callable[[State, Mapping[str, Floats]], None] | None = None
    rate_at: Callable[[float, int], float] = constant_rate
    sends: tuple[str, ...] = ("x",)

    def __post_init__(self) -> None:
        if not self.sends or not {*self.sends} <= {"x", *self.keeps} - {"error"}:
            known = ", ".join(("x", *(name for name in self.keeps if name != "error")))
            raise ValueError(f"a rule sends {', '.join(self.sends) or 'nothing'}, but it has {known}")

    @property
    def error_feedback(self) -> bool:
        """True if a node adds what a message left out to the next one. Only then does p bound the averaging rate."""
        return "error" in self.keeps

    @property
    def descends(self) -> bool:
        """Whether a local step adds the local update to x, and changes nothing else. Then x can be what is trained."""
        return self.apply_update is descend

    @property
    def overlaps(self) -> bool:
        """True if a round can be mixed later than it is pushed: its mix only moves messages out of and into x and u."""
        return self.mix is mix_contributions and not self.fixed


def compress_difference(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """CHOCO-SGD (Koloskova et al. 2019, Algorithm 2, lines 4 to 7): q = C[x-hat - known], known += q.

    ``known`` is what the receivers know of x-hat: they add q to it, too. So what one round does not send is part of
    the next difference. Quant-SGP (Taheri et al. 2020, Algorithm 2) sends the same, with push-sum.
    """
    payload = compressor(state.x - state.kept["known"], layout, rng)
    payload.add_to(state.kept["known"], 1.0)
    return payload


def mix_known(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """CHOCO-SGD (Algorithm 2, line 9): x = x-hat + gamma * sum_j W_ij (known_j - known_i), and the same for u.

    Instead of every neighbour's ``known``, a node keeps their weighted sum, its own included (the paper's
    memory-efficient form): gathered += sum_j W_ij q_j, x = x-hat + gamma * (gathered - known). With gamma = 1 this is
    Quant-SGP's x = x-hat - known + sum_j W_ij known_j.
    """
    own.payload.add_to(state.kept["gathered"], self_weight)
    state.u -= own.averaging_rate * (1.0 - self_weight) * own.u
    for contribution in received:
        contribution.payload.add_to(state.kept["gathered"], contribution.weight)
        state.u += own.averaging_rate * contribution.weight * contribution.u
    state.x += np.float32(own.averaging_rate) * (state.kept["gathered"] - state.kept["known"])


SPARSE_PUSH = UpdateRule(("error",), descend, compress_with_feedback, mix_contributions)
"""The rule of Sparse-Push: error feedback, and push-sum weights."""
DIFFERENCE = UpdateRule(
    ("known", "gathered"),
    descend,
    compress_difference,
    mix_known,
    fixed=True,
    default_rate=default_difference_rate,
    largest_rate=1.0,
)
"""The rule of algorithms that send differences to what the neighbours know, as CHOCO-SGD."""
