"""Reconstruction of a batch by optimisation: inputs whose gradient points where the message does (Geiping et al. 2020).

The attacker knows the initial model, and estimates the classes first (`class_counts`). Coordinates that a message does
not have are unknown, not zero, so the angle is measured over the others. Pixels stay in the range of true images.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgenode_lab.privacy import victims

Vectors = NDArray[np.float64]

STARTS = 8
_STEPS = 600
_RATE = 0.1


def reconstructed(
    changes: NDArray[np.float32], initial: NDArray[np.float32], classes: NDArray[np.int64], bounds: tuple[float, float]
) -> Vectors:
    """Return the batches that explain the first steps of many nodes best, [pushes, batch, pixels].

    Args:
        changes: what the messages say that one step of plain SGD changed, [pushes, size].
        initial: the model before the step, [size].
        classes: the estimated class of each sample, [pushes, batch].
        bounds: the smallest and the largest value of a pixel.
    """
    pushes, batch = classes.shape
    pixels = (len(initial) - victims.HIDDEN - (victims.HIDDEN + 1) * victims.CLASSES) // victims.HIDDEN
    weights = [torch.from_numpy(w).float() for w in victims.tensors(initial, pixels)]
    told = -torch.from_numpy(changes).repeat_interleave(STARTS, 0)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes), victims.CLASSES).float()
    one_hot = one_hot.repeat_interleave(STARTS, 0)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(pushes * STARTS, batch, pixels, generator=generator).clamp(*bounds).requires_grad_()
    optimizer = torch.optim.Adam([images], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        _angles(images, one_hot, weights, told).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(*bounds)
    with torch.no_grad():
        best = _angles(images, one_hot, weights, told).view(pushes, STARTS).argmin(1)
        chosen = images.view(pushes, STARTS, batch, pixels)[torch.arange(pushes), best]
    return chosen.double().numpy()


def _angles(images: Tensor, one_hot: Tensor, weights: list[Tensor], told: Tensor) -> Tensor:
    """Return 1 - cos of the angle between each gradient and its message, [problems]."""
    gradient = torch.where(told != 0, _gradients(images, one_hot, weights), 0)
    return 1 - torch.cosine_similarity(gradient, told, dim=1)


def _gradients(images: Tensor, one_hot: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the gradients of the mean cross-entropy of the batches, [problems, size], as a function of the images."""
    first, bias, last, last_bias = weights
    before = images @ first.T + bias
    hidden = before.relu()
    errors = ((hidden @ last.T + last_bias).softmax(2) - one_hot) / images.shape[1]
    of_hidden = (errors @ last) * (before > 0)
    parts = (of_hidden.mT @ images, of_hidden.sum(1), errors.mT @ hidden, errors.sum(1))
    return torch.cat([part.flatten(1) for part in parts], 1)
