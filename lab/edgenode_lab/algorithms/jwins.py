"""CHOCO-SGD with the ranking of JWINS (Dhasade et al. 2023): wavelet coefficients are selected, not parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgenode.extensions import (
    DIFFERENCE,
    AlgorithmDefinition,
    Compressor,
    Contribution,
    Floats,
    Layout,
    Payload,
    Sent,
    State,
    mix_known,
)

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
    """All nodes begin with the same model, so the coefficients of all models are known without a message."""
    for vector in state.kept.values():
        vector[:] = wavelet(state.x)


def compress_coefficients(state: State, compressor: Compressor, layout: Layout, rng: np.random.Generator) -> Payload:
    """JWINS (Dhasade et al. 2023): the wavelet coefficients that have changed most since they were last sent.

    That is how JWINS ranks what it sends. This change is CHOCO-SGD's difference: x-hat without what is known of it.
    """
    payload = compressor(wavelet(state.x) - state.kept["known"], layout, rng)
    payload.add_to(state.kept["known"], 1.0)
    return payload


def mix_coefficients(state: State, own: Sent, self_weight: float, received: Sequence[Contribution]) -> None:
    """CHOCO-SGD (Algorithm 2, line 9) on coefficients: the transform is linear, so their averages are those of x."""
    of_coefficients = State.of({"x": np.zeros_like(state.x), **state.kept}, state.u)
    mix_known(of_coefficients, own, self_weight, received)
    state.x += from_wavelet(of_coefficients.x)


WAVELET = replace(DIFFERENCE, begin=begin_known_coefficients, compress=compress_coefficients, mix=mix_coefficients)

DEFINITION = AlgorithmDefinition(lambda: WAVELET, doubly_stochastic=True)
