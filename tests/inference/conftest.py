"""Models that nodes have published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation


def simulate(out: Path, **changes: Any) -> None:
    settings = {
        "run.nodes": 1, "run.threads": 1, "run.rounds": 3, "run.evaluate_every": 0, "algorithm.name": "sp",
        "task.batch_size": 16,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip
    Simulation(load(None, settings, environ={}), out).run()


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small-cnn on the digits."""
    out = tmp_path_factory.mktemp("published")
    simulate(out)
    return out / "node-0" / "model.safetensors"
