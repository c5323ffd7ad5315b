"""result.json: one schema for a node, for a demo and for a simulation; and the figures that go into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgenode.config import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.errors import CheckpointError
from edgenode.storage.checkpoints import write_atomically

SCHEMA = "edgenode/result/1"
_WORSE = 0.02  # of test accuracy: more than one evaluation differs from the next


@dataclass(frozen=True)
class NodeResult:
    """What one node did. Bytes and messages are those it sent; dense bytes what they would weigh as float32.

    Attributes:
        peak_memory_bytes: the most that its process held.
        joules_per_round: of the whole board or processor, since that process began to train; None without a sensor.
        power_sensor: what measured that, or why nothing did.
    """

    node: str
    test_accuracy: float
    u: float
    rounds: int
    messages: int
    payload_bytes: int
    wire_bytes: int
    dense_bytes: int
    peak_memory_bytes: int | None = None
    joules_per_round: float | None = None
    power_sensor: str = "not measured"


def summary(
    config: Config, nodes: Sequence[NodeResult], wall_s: float, models: Sequence[Floats] | None = None
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        models: z of every node, [n][d], where they are all known; without them the divergences are null.

    ``parameter_divergence_l2`` is 1/n sum |z_i - mean z| (section 4), ``parameter_divergence_mse`` the mean square of
    the same differences; ``compression_factor`` is dense bytes over payload bytes, all phases included.
    """
    algorithm = config.algorithm
    l2, mse = divergence(models) if models else (None, None)
    payload = sum(n.payload_bytes for n in nodes)
    return {
        "schema": SCHEMA,
        "algorithm": algorithm.name,
        "compressor": describe_compressor(config),
        "nodes": [asdict(n) for n in nodes],
        "mean_test_accuracy": sum(n.test_accuracy for n in nodes) / len(nodes),
        "parameter_divergence_l2": l2,
        "parameter_divergence_mse": mse,
        "sum_u": sum(n.u for n in nodes),
        "compression_factor": sum(n.dense_bytes for n in nodes) / payload if payload else None,
        "wall_s": round(wall_s, 3),
        "config": config.as_dict(),
    }


def divergence(models: Sequence[Floats]) -> tuple[float, float]:
    """(mean L2 distance from the mean model, mean squared difference from it)."""
    stacked = np.stack(models).astype(np.float64)
    differences = stacked - stacked.mean(axis=0)
    return float(np.linalg.norm(differences, axis=1).mean()), float((differences**2).mean())


def no_gain(before: float | None, average: float) -> str:
    """What to do about an average that is worse than the models it is of; empty if it is not.

    Args:
        before, average: test accuracies, 0 to 1; None where it was not measured.
    """
    if before is None or before - average < _WORSE:
        return ""
    return (
        f"the average of all models has a test accuracy of {average:.1%}, and before it they had {before:.1%}: "
        "they are too far apart. More rounds, a larger share or a smaller learning rate bring them closer; "
        'algorithm.name = "sp" leaves the average out'
    )


def describe_compressor(config: Config) -> str:
    """The compressor in a word or two: topk-0.01-int8."""
    algorithm = config.algorithm
    if algorithm.name == "local":
        return "none"
    match algorithm.compressor:
        case "topk" | "rolling":
            return f"{algorithm.compressor}-{algorithm.share:g}-{algorithm.values}"
        case "random":
            return f"random-{algorithm.bits}bit"
        case "identity":
            return f"identity-{algorithm.values}"


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result.json, whole or not at all.

    Raises:
        CheckpointError: the disk refuses it.
    """
    try:
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be written: {exc}") from exc


def read_node(path: Path) -> NodeResult:
    """The one node of a node's own result.json."""
    (node,) = json.loads(path.read_text())["nodes"]
    return NodeResult(**node)
