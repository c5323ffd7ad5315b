"""DiLoCo (Douillard et al. 2023): the mean of what local steps changed moves x, by an outer optimiser with momentum.

The paper averages all workers at once. Here an exchange takes one round on the complete graph, or several on a graph
that averages exactly after one period of it. A message is C[x-hat - x + rest].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import Contribution, Sent, State
from edgenode.core.algorithm.update_rules import SPARSE_PUSH

MOMENTUM = 0.5
RATE = 0.7


def remember_start(state: State, local_update: Floats) -> None:
    """x of before the local steps stays in ``start``, as the slow weights of the outer optimiser. x becomes x-hat."""
    state.kept["start"][:] = state.x
    state.x += local_update


def begin_at_start(state: State) -> None:
    """The slow weights are the common model."""
    state.kept["start"][:] = state.x


def begin_exchange(state: State, local_update: Floats) -> None:
    """Begin an exchange of what the local steps changed, and of what earlier messages left out.

    What the last exchange led to is where this one begins: its x is ``start``, and its change is part of the momentum.
    """
    start, momentum, change, rest = (state.kept[name] for name in ("start", "momentum", "change", "rest"))
    momentum *= np.float32(MOMENTUM)
    momentum += change
    remember_start(state, local_update)
    np.add(rest, state.x, out=change)
    change -= start
    rest[:] = 0


def compress_change(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """C[change]: the own one in the first round of an exchange, the mean of several in a later one.

    What the message leaves out is kept, as in SparseLoCo (Sarfi et al. 2025, Algorithm 1), with nothing of it
    forgotten. It is part of the own change in the next exchange. No change is lost, whichever round left it out:

    1. Before each round, n nodes are in groups of m that hold the same change c, and send the same C[c].
    2. c counts m / n in the mean of all. So c - C[c], which a group leaves out, is missing from it with this weight.
    3. Each of the m nodes keeps c - C[c], and in the next exchange it counts 1 / n for each.
    """
    change, rest = state.kept["change"], state.kept["rest"]
    payload = compressor(change, layout, rng)
    rest += change
    payload.add_to(rest, -1.0)
    return payload


def take_outer_step(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """DiLoCo (Douillard et al. 2023, Algorithm 1), the outer step, which is the same at all nodes.

    The outer gradient is the mean of all changes, Delta. The outer optimiser is SGD with Nesterov momentum: m = mu m +
    Delta, x += eta (Delta + mu m). All nodes begin with the same x and m, and add up the same messages in sender order,
    so x and m are the same to the bit. Each node has its own rest.

    If an exchange takes several rounds, Delta is a mean of some changes until the last. x is then the step with these,
    and each round replaces it.
    """
    start, momentum, change = state.kept["start"], state.kept["momentum"], state.kept["change"]
    change[:] = 0
    for contribution in received[: own.place]:
        contribution.payload.add_to(change, contribution.weight)
    own.payload.add_to(change, self_weight)
    for contribution in received[own.place :]:
        contribution.payload.add_to(change, contribution.weight)
    step = np.float32(MOMENTUM) * momentum
    step += change
    step *= np.float32(MOMENTUM)
    step += change
    step *= np.float32(own.averaging_rate)
    np.add(start, step, out=state.x)


def common_part(state: State, begun: bool) -> dict[str, Floats]:
    """x and the momentum with which an exchange begins: [d] each, and the same at all nodes, to the bit.

    Args:
        begun: the exchange has begun. Else it is the next one.
    """
    momentum = state.kept["momentum"]
    if begun:
        return {"x": state.kept["start"], "momentum": momentum}
    return {"x": state.x, "momentum": np.float32(MOMENTUM) * momentum + state.kept["change"]}


def join_exchange(state: State, brought: Mapping[str, Floats]) -> None:
    """Let a first state begin an exchange as the others do.

    Args:
        brought: the momentum of the common part, and the ``rest`` of a node that comes back with what it has not sent.
    """
    state.kept["change"][:] = brought["momentum"]  # `begin_exchange` makes it the momentum
    if "rest" in brought:
        state.kept["rest"][:] = brought["rest"]


DILOCO = replace(
    SPARSE_PUSH,
    keeps=("rest", "change", "momentum", "start"),
    begin=begin_at_start,
    apply_update=begin_exchange,
    compress=compress_change,
    mix=take_outer_step,
    common=common_part,
    join=join_exchange,
    fixed=True,
    spans_period=True,
    default_rate=lambda kept, contraction: RATE,
    largest_rate=1.0,
)
