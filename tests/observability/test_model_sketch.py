"""The distance of models, estimated from 64 numbers of each."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.observability.model_sketch import BUCKETS, Sketch, distance
from edgenode.storage.result_file import divergence


def test_projection_depends_on_the_seed_only() -> None:
    z = np.arange(1000, dtype=np.float32)
    assert Sketch(1000, 7).of(z) == Sketch(1000, 7).of(z)
    assert Sketch(1000, 7).of(z) != Sketch(1000, 8).of(z)
    assert len(Sketch(1000, 7).of(z)) == BUCKETS


@pytest.mark.parametrize("apart", [10.0, 1e-3])
def test_estimate_is_within_a_third_of_the_distance(apart: float) -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=20_000)
    models = [(common + apart * rng.normal(size=common.size)).astype(np.float32) for _ in range(4)]
    for seed in range(20):
        sketch = Sketch(common.size, seed)
        assert distance([sketch.of(z) for z in models]) == pytest.approx(divergence(models)[0], rel=0.33)


def test_equal_models_have_distance_zero() -> None:
    z = np.ones(100, np.float32)
    assert distance([Sketch(100, 0).of(z)] * 3) == 0
