"""Gradient inversion: its gradient is autograd's, and a batch is found from a whole gradient and not from noise."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from edgenode_lab.privacy import victims
from edgenode_lab.privacy.gradient_inversion import _gradients, reconstructed
from edgenode_lab.privacy.inversion import best_correlation

PIXELS, BOUNDS = 16, (-2.0, 2.0)


def model(seed: int = 0) -> torch.Tensor:
    size = victims.HIDDEN * (PIXELS + 1) + victims.CLASSES * (victims.HIDDEN + 1)
    return 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def loss(z: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    first, bias, last, last_bias = torch.split(
        z, [victims.HIDDEN * PIXELS, victims.HIDDEN, victims.CLASSES * victims.HIDDEN, victims.CLASSES]
    )
    hidden = functional.relu(functional.linear(images, first.view(-1, PIXELS), bias))
    return functional.cross_entropy(functional.linear(hidden, last.view(victims.CLASSES, -1), last_bias), labels)


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.empty(size, PIXELS).uniform_(*BOUNDS, generator=generator)
    return images, torch.randint(victims.CLASSES, (size,), generator=generator).sort().values


def gradient(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images, labels = batch(size)
    z = model().requires_grad_()
    return torch.autograd.grad(loss(z, images, labels), z)[0], images, labels


def test_gradient_is_autograds() -> None:
    expected, images, labels = gradient(5)
    weights = [torch.from_numpy(w).float() for w in victims.tensors(model().numpy(), PIXELS)]
    one_hot = functional.one_hot(labels, victims.CLASSES).float()
    assert torch.allclose(_gradients(images[None], one_hot[None], weights)[0], expected, atol=1e-6)


def test_batch_is_found_from_its_gradient_and_not_from_noise() -> None:
    true, images, labels = gradient(2)
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(2))
    changes = np.stack([(-0.1 * true).numpy(), noise.numpy()])
    found, invented = reconstructed(changes, model().numpy(), np.stack([labels.numpy()] * 2), BOUNDS)
    for image in images.double().numpy():
        assert best_correlation(found, image[None]) > 0.99
        assert best_correlation(invented, image[None]) < 0.9
    assert (np.abs(found) <= 2).all()
