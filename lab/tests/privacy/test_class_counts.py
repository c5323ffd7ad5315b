"""The classes of a batch, where the last layer tells them and where it does not."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from edgenode_lab.privacy.class_counts import agreement, estimate


def test_the_step_of_a_batch_tells_its_classes() -> None:
    labels = torch.tensor([0, 0, 0, 2, 5, 5, 9, 9])
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)) * 0.1
    bias = torch.zeros(10, requires_grad=True)
    functional.cross_entropy(logits + bias, labels).backward()
    assert bias.grad is not None
    probabilities = logits.softmax(dim=1).mean(dim=0).double().numpy()
    counts = estimate(-0.1 * bias.grad.double().numpy(), probabilities, 8, 0.1)
    assert counts.tolist() == torch.bincount(labels, minlength=10).tolist()
    assert agreement(counts, counts) == 1.0


def test_noise_tells_no_classes() -> None:
    rng = np.random.default_rng(0)
    found = [
        agreement(estimate(rng.standard_normal(10), np.full(10, 0.1), 1, 0.1), np.eye(10, dtype=np.int64)[i % 10])
        for i in range(1000)
    ]
    assert 0.06 < np.mean(found) < 0.14


def test_counts_add_up_to_the_batch_in_any_case() -> None:
    assert estimate(np.full(10, -9.0), np.full(10, 0.1), 8, 0.1).sum() == 8
    assert estimate(np.zeros(10), np.full(10, 0.1), 8, 0.1).sum() == 8
