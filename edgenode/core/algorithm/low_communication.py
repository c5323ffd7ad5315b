"""Update rules of published methods that send little, to compare with: SPARTA, DiLoCo, NoLoCo, SparseLoCo and JWINS.

Their papers average all workers, pairs of them, or the neighbours in an undirected graph. Here each one averages over
the graph of the run, and ``W`` is doubly stochastic. Only DiLoCo takes no other average than that of all.

    SPARTA        sends the entries of x-hat that the compressor selects, and forgets what it left out
    DILOCO        sends C[x-hat - x + rest], and the mean of all moves x, with momentum, in one round or in several
    NOLOCO        sends C[x-hat + error], and the change of x has momentum
    SPARSE_LOCO   sends C[x-hat - replica], and part of what it left out is forgotten
    WAVELET       sends C[T (x-hat - replica)], where T is a wavelet transform: JWINS' ranking in CHOCO-SGD
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgenode.core.algorithm.compression import Compressor, Floats, Layout, Payload
from edgenode.core.algorithm.sparse_push import Contribution, State, Weights, mix_contributions
from edgenode.core.algorithm.update_rules import DIFFERENCE, SPARSE_PUSH, UpdateRule, compress_difference, mix_replicas
from edgenode.core.topology.graph import Digraph
from edgenode.errors import GraphError

# SPARTA ------------------------------------------------------------------------------------------------

SPARTA = replace(SPARSE_PUSH, keeps=(), fixed=True, default_rate=lambda kept, contraction: 1.0, largest_rate=1.0)
"""SPARTA (Beton et al. 2025, Sparse Parameter Averaging): x[S] = W x-hat[S] for the entries S of this round, which are
the same at every node. The other entries stay. u counts for all entries, so the members must not change."""

# What outer optimisers keep -----------------------------------------------------------------------------


def remember_start(state: State, local_update: Floats) -> None:
    """x of before the local steps stays in ``start``, as the slow weights of the outer optimiser. x becomes x-hat."""
    state.kept["start"][:] = state.x
    state.x += local_update


def begin_at_start(state: State) -> None:
    """The slow weights are the common model."""
    state.kept["start"][:] = state.x


# DiLoCo ------------------------------------------------------------------------------------------------

DILOCO_MOMENTUM = 0.5
DILOCO_RATE = 0.7


def begin_exchange(state: State, local_update: Floats) -> None:
    """Begin an exchange of what the local steps changed, and of what earlier messages left out.

    What the last exchange led to is where this one begins: its x is ``start``, and its change is part of the momentum.
    """
    start, momentum, change, rest = (state.kept[name] for name in ("start", "momentum", "change", "rest"))
    momentum *= np.float32(DILOCO_MOMENTUM)
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


def take_outer_step(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """DiLoCo (Douillard et al. 2023, Algorithm 1), the outer step, which is the same at all nodes.

    The outer gradient is the mean of all changes, Delta. The outer optimiser is SGD with Nesterov momentum: m = mu m +
    Delta, x += eta (Delta + mu m). All nodes begin with the same x and m, and receive the same messages, so x and m
    differ by rounding alone. A node's rest is its own.

    If an exchange takes several rounds, Delta is a mean of some changes until the last. x is then the step with these,
    and each round replaces it.
    """
    start, momentum, change = state.kept["start"], state.kept["momentum"], state.kept["change"]
    change[:] = 0
    own.add_to(change, self_weight)
    for contribution in received:
        contribution.payload.add_to(change, contribution.weight)
    step = np.float32(DILOCO_MOMENTUM) * momentum
    step += change
    step *= np.float32(DILOCO_MOMENTUM)
    step += change
    step *= np.float32(averaging_rate)
    np.add(start, step, out=state.x)


DILOCO = replace(
    SPARSE_PUSH,
    keeps=("rest", "change", "momentum", "start"),
    begin=begin_at_start,
    apply_update=begin_exchange,
    compress=compress_change,
    mix=take_outer_step,
    fixed=True,
    spans_period=True,
    default_rate=lambda kept, contraction: DILOCO_RATE,
    largest_rate=1.0,
)

# NoLoCo ------------------------------------------------------------------------------------------------

NOLOCO_MOMENTUM = 0.5
NOLOCO_RATE = 0.7


def mix_with_momentum(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """NoLoCo (Kolehmainen et al. 2025), the outer step, with alpha = 0.5 and beta = gamma = ``averaging_rate``.

    1. The paper has delta = alpha delta + beta sum_j W_ij Delta_j - gamma sum_j W_ij (phi_i - phi_j), where Delta is
       what the local steps changed, and then phi += delta.
    2. Over all nodes the gamma terms cancel: the mean of phi takes the mean step, with momentum.
    3. With beta = gamma, phi and Delta are only needed as their sum x-hat. So a message is one vector instead of two:
       delta = alpha delta + gamma (x-hat - phi) + gamma sum_j (W_ij - I_ij) x-hat_j.
    """
    start, momentum = state.kept["start"], state.kept["momentum"]
    momentum *= np.float32(NOLOCO_MOMENTUM)
    momentum += np.float32(averaging_rate) * (state.x - start)
    state.x[:] = start + momentum
    mix_contributions(state, own, own_u, self_weight, received, averaging_rate)
    momentum[:] = state.x - start
    start[:] = state.x  # for a round without local steps


def require_symmetric(name: str, graph: Digraph, rate: float) -> None:
    """Refuse a graph on which NoLoCo would diverge: its momentum amplifies what a directed cycle turns in circles.

    1. Along an eigenvector of W with eigenvalue l, the roots of r^2 - (1.5 - rate (1 - l)) r + 0.5 are the factors by
       which a round multiplies a disagreement.
    2. They are within the unit circle for every real l below 1 and every rate up to 1, but not for every complex l.

    Raises:
        GraphError: the weights are not symmetric.
    """
    weights = graph.mixing_matrix()
    if not np.allclose(weights, weights.T):
        raise GraphError(
            f"noloco cannot use {name}: its weights are not symmetric, and noloco would diverge; try two-way, or "
            "halving with 2, 4, 8, ... nodes"
        )


NOLOCO = replace(
    SPARSE_PUSH,
    keeps=("error", "momentum", "start"),
    begin=begin_at_start,
    apply_update=remember_start,
    mix=mix_with_momentum,
    default_rate=lambda kept, contraction: min(NOLOCO_RATE, kept),
    largest_rate=1.0,
    check_graph=require_symmetric,
)

# SparseLoCo --------------------------------------------------------------------------------------------

SPARSE_LOCO_DECAY = 0.95


def begin_known(state: State) -> None:
    """All nodes begin with the same model, so every replica is known without a message."""
    for vector in state.kept.values():
        vector[:] = state.x


def compress_with_decay(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """SparseLoCo (Sarfi et al. 2025, Algorithm 1) over gossip: what a message left out counts 0.95 in the next.

    1. The paper sends C[e] of e = 0.95 e + Delta, where Delta is what the local steps changed, and keeps the rest as e.
       All workers receive all messages, so all have the same model.
    2. In gossip, models differ. A node sends the difference between x-hat and its replica, as CHOCO-SGD does. It holds
       Delta, and e as the part of the difference that was not sent.
    """
    payload = compress_difference(state, compressor, layout, rng)
    state.x -= np.float32(1 - SPARSE_LOCO_DECAY) * (state.x - state.kept["replica"])
    return payload


SPARSE_LOCO = replace(DIFFERENCE, begin=begin_known, compress=compress_with_decay)

# CHOCO-SGD with JWINS' ranking -------------------------------------------------------------------------

_WAVELET_LEVELS = 4  # as in JWINS


def wavelet(vector: Floats) -> Floats:
    """The orthonormal Haar transform of a vector [d] at four levels. A new vector.

    Sums and differences take the places of the entries that they come from. So a tensor's coefficients lie where the
    tensor lies, and its layout fits both. An entry without a partner stays as it is.
    """
    result = vector.copy()
    for level in range(_WAVELET_LEVELS):
        _butterfly(result, 2**level)
    return result


def from_wavelet(coefficients: Floats) -> Floats:
    """The inverse of ``wavelet``: a butterfly is its own inverse."""
    result = coefficients.copy()
    for level in reversed(range(_WAVELET_LEVELS)):
        _butterfly(result, 2**level)
    return result


def _butterfly(vector: Floats, step: int) -> None:
    right = vector[step :: 2 * step]
    left = vector[:: 2 * step][: len(right)]
    scale = np.float32(np.sqrt(0.5))
    left[:], right[:] = scale * (left + right), scale * (left - right)


def begin_known_coefficients(state: State) -> None:
    """As ``begin_known``, for replicas of coefficients."""
    for vector in state.kept.values():
        vector[:] = wavelet(state.x)


def compress_coefficients(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """JWINS (Dhasade et al. 2023): the wavelet coefficients that have changed most since they were last sent.

    That is how JWINS ranks what it sends. CHOCO-SGD's difference between x-hat and the replica is just this change.
    """
    payload = compressor(wavelet(state.x) - state.kept["replica"], layout, rng)
    payload.add_to(state.kept["replica"], 1.0)
    return payload


def mix_coefficients(
    state: State,
    own: Payload,
    own_u: Weights,
    self_weight: float,
    received: Sequence[Contribution],
    averaging_rate: float,
) -> None:
    """CHOCO-SGD (Algorithm 2, line 9) on coefficients: the transform is linear, so their averages are those of x."""
    of_coefficients = State.of({"x": np.zeros_like(state.x), **state.kept}, state.u)
    mix_replicas(of_coefficients, own, own_u, self_weight, received, averaging_rate)
    state.x += from_wavelet(of_coefficients.x)


WAVELET = replace(DIFFERENCE, begin=begin_known_coefficients, compress=compress_coefficients, mix=mix_coefficients)

RULES: dict[str, UpdateRule] = {
    "sparta": SPARTA,
    "diloco": DILOCO,
    "noloco": NOLOCO,
    "sparse-loco": SPARSE_LOCO,
    "choco-jwins": WAVELET,
}
"""By the name in run.toml."""
