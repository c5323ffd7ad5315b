"""Settings that belong together, by the name that `run.recipe` gives them."""

from __future__ import annotations

from collections.abc import Mapping

RECIPES: Mapping[str, Mapping[str, object]] = {
    "paper": {},
    "recommended": {
        "task.optimizer": "adamw",
        "task.learning_rate": 0.003,
        "task.schedule": "cosine",
        "task.local_steps": 4,
        "algorithm.name": "scsp",
        "algorithm.compressor": "rolling",
        "algorithm.share": 0.028,
        "algorithm.values": "fitted4",
        "algorithm.gossip_values": "int8",
    },
}
"""Keys of run.toml. Keys that are given take precedence, and all others have their own defaults."""

OPTIMISER = frozenset({"task.optimizer", "task.learning_rate", "task.schedule", "task.milestones"})
"""Keys that a recipe sets together or not at all: a learning rate fits one optimiser and one schedule."""
