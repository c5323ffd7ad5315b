"""Values to test every key with."""

from __future__ import annotations

from typing import Any

from edgenode.config.schema import Config

# Another valid value for every key: the digest and precedence tests fail when a new key is missing here.
OTHER: dict[str, Any] = {
    "run.cluster": "lab-2", "run.recipe": "recommended", "run.nodes": 5, "run.rounds": 7, "run.seed": 1,
    "run.checkpoint_every": 3,
    "run.evaluate_every": 0, "run.publish_every": 10, "run.barrier_timeout_s": 2.5, "run.evict_after_s": 7.5,
    "run.log_every_s": 0.0,
    "run.straggler": "drop", "run.on_poison": "evict", "run.min_nodes": 2,
    "run.window": 9, "run.overlap": 1, "run.threads": 2, "run.device": "cuda",
    "task.dataset": "cifar10", "task.data_dir": "/data",
    "task.classes": ("cat", "dog"),
    "task.shared": ("body", "*.norm"),
    "task.entry": "birds.task:Birds", "task.options": {"width": 32, "name": "x", "deep": False, "sizes": [1, 2.5]},
    "task.data": "own", "task.objective": "samples", "task.image_size": 64, "task.local_steps": 4,
    "task.accumulate": 2, "task.optimizer": "adamw", "task.clip_norm": 1.0, "task.schedule": "cosine",
    "task.buffers": "average", "task.loss": "balanced",
    "task.model": "resnet20", "task.norm": "batch", "task.skew": 0.8, "task.alpha": 0.1, "task.batch_size": 16,
    "task.validation": 0.2,
    "task.learning_rate": 0.2, "task.momentum": 0.0, "task.weight_decay": 0.0, "task.milestones": (10, 20),
    "task.decay": 0.5, "task.warmup_epochs": 1, "task.augment": True,
    "task.precision": "bfloat16",
    "task.memory_format": "channels_last",
    "privacy.epsilon": 3.0, "privacy.delta": 1e-6, "privacy.noise": 1.1, "privacy.clip_norm": 0.5,
    "privacy.reproducible": True,
    "algorithm.name": "sp", "algorithm.compressor": "identity",
    "algorithm.share": 0.1, "algorithm.bits": 2, "algorithm.values": "float32",
    "algorithm.averaging_rate": 0.004, "algorithm.liars": 1,
    "algorithm.averaging_warmup": 10, "algorithm.averaging_decay": 0.5,
    "algorithm.gossip_rounds": 40, "algorithm.gossip_tolerance": 0.01,
    "algorithm.gossip_graph": "complete", "algorithm.gossip_values": "int8",
    "algorithm.options": {}, "topology.graphs": ("a", "graphs/ring.edges"),
    "topology.every": "100r",
    "topology.weights": "uniform",
}  # fmt: skip


def another(key: str) -> dict[str, Any]:
    """Keys of a configuration in which this one has another value than by default."""
    if key == "algorithm.options":  # edgenode's own algorithms have none
        return {"algorithm.name": "skew-scout", key: {"travel_every": 9}}
    return {key: OTHER[key]}


def value_of(loaded: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return loaded.as_dict()[section][name]
