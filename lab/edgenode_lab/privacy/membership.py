"""Membership attacks: from what is seen of a run, was a sample among the training samples?

Both attacks give a score per run and sample, and a larger one says "member". The loss attack (Yeom et al. 2018) needs
one run. The likelihood-ratio attack (LiRA, online: Carlini et al. 2022) compares a run with shadow runs, of which half
trained on the sample. A score never uses the run that it judges, nor that run's complement: the number of other runs
that trained on a sample would otherwise tell of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgenode.errors import ConfigError

Numbers = NDArray[np.float64]
Members = NDArray[np.bool_]

_SMALLEST_SPREAD = 1e-6  # of a feature over shadow runs: one that is constant tells nothing
_CONFIDENCE = 0.95
_HALVINGS = 60  # of an interval of probabilities, down to rounding


def loss_scores(features: Numbers) -> Numbers:
    """Return the scores [runs, samples] of the loss attack: the newest of the confidences [runs, samples, features]."""
    return features[:, :, -1]


def likelihood_ratios(features: Numbers, members: Members) -> Numbers:
    """Return the scores [runs, samples] of LiRA.

    Each feature of a sample has a Gaussian over the runs that trained on it, and one over the others, with one variance
    for both. The log ratios of the features add up.

    Args:
        features: what is seen, [runs, samples, features]. Runs 2 i and 2 i + 1 are complements.
        members: which run trained on which sample, [runs, samples].

    Raises:
        ConfigError: there are too few runs, or two that should be complements are not.
    """
    runs = len(members)
    if runs < 6 or runs % 2:
        raise ConfigError(f"{runs} shadow runs: LiRA needs an even number of them, at least 6")
    if (members[0::2] == members[1::2]).any():
        raise ConfigError("runs 2 i and 2 i + 1 must train on complementary halves of the samples")
    scores = np.empty(members.shape)
    for pair in range(0, runs, 2):
        others = np.delete(np.arange(runs), [pair, pair + 1])
        inside, outside, variance = _gaussians(features[others], members[others])
        for run in (pair, pair + 1):
            ratio = (features[run] - outside) ** 2 - (features[run] - inside) ** 2
            scores[run] = (ratio / (2 * variance)).sum(axis=1)
    return scores


def _gaussians(features: Numbers, members: Members) -> tuple[Numbers, Numbers, Numbers]:
    """Return the means over the runs with and without a sample, and the common variance, [samples, features]."""
    chosen = members[:, :, None]
    inside = np.where(chosen, features, 0).sum(axis=0) / chosen.sum(axis=0)
    outside = np.where(chosen, 0, features).sum(axis=0) / (~chosen).sum(axis=0)
    variance = ((features - np.where(chosen, inside, outside)) ** 2).sum(axis=0) / (len(members) - 2)
    return inside, outside, np.maximum(variance, _SMALLEST_SPREAD**2)


@dataclass(frozen=True, slots=True)
class Rate:
    """The share of members that an attack finds, with its confidence interval, as shares of 1."""

    found: int
    members: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.found / self.members


def true_positives(scores: Numbers, members: Members, false_positives: float) -> Rate:
    """Return the share of members found at the threshold that at most this share of the others passes."""
    others = np.sort(scores[~members])[::-1]
    # a sample passes if its score is above the threshold, so equal scores never add false positives
    threshold = others[min(len(others) - 1, math.floor(false_positives * len(others)))]
    found, count = int((scores[members] > threshold).sum()), int(members.sum())
    return Rate(found, count, *clopper_pearson(found, count))


def clopper_pearson(successes: int, trials: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of a probability of which ``successes`` of independent trials are known."""
    tail = (1 - confidence) / 2
    low = _solve(trials, 1 - tail, successes - 1) if successes else 0.0
    high = _solve(trials, tail, successes) if successes < trials else 1.0
    return low, high


def _solve(trials: int, wanted: float, most: int) -> float:
    """Return the p at which at most ``most`` successes have the wanted probability, which falls with p."""
    k = np.arange(most + 1)
    ways = np.array([math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in k.tolist()])
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        p = (low + high) / 2
        probability = np.exp(ways + k * math.log(p) + (trials - k) * math.log1p(-p)).sum() if p < 1 else 0.0
        low, high = (p, high) if probability > wanted else (low, p)
    return (low + high) / 2
