"""Inversion of a first linear layer, where it is exact and where it is at chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgenode_lab.privacy.inversion import best_correlation, directions, identified, inputs


def gradient(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    functional.cross_entropy(model(images), torch.arange(len(images)) % 10).backward()
    first = model[0]
    assert isinstance(first, nn.Linear) and first.weight.grad is not None and first.bias.grad is not None
    return first.weight.grad.double().numpy(), first.bias.grad.double().numpy()


def test_a_batch_of_one_is_found_exactly() -> None:
    pool = torch.rand(200, 64, generator=torch.Generator().manual_seed(1))
    true = pool[:1].double().numpy()
    weight, bias = gradient(pool[:1])
    guesses = inputs(weight, bias)
    assert np.allclose(guesses[0], true[0], atol=1e-5)
    assert best_correlation(guesses, true) > 0.9999
    assert identified(guesses[:1], true, pool.double().numpy()) == 1
    assert identified(directions(weight)[:1], true, pool.double().numpy()) == 1


def test_noise_identifies_no_input() -> None:
    rng = np.random.default_rng(0)
    pool = rng.random((500, 64))
    found = sum(identified(rng.standard_normal((1, 64)), pool[i : i + 1], pool) for i in range(100))
    assert found <= 3


def test_rows_that_did_not_change_say_nothing() -> None:
    assert inputs(np.ones((3, 4)), np.zeros(3)).shape == (0, 4)
    assert directions(np.zeros((3, 4))).shape == (0, 4)
    assert identified(np.zeros((0, 4)), np.ones((1, 4)), np.ones((2, 4))) == 0
    assert best_correlation(np.zeros((0, 4)), np.ones((1, 4))) == 0.0
