"""result.json: one schema for nodes, demos and simulations, and the numbers in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgenode.config.schema import Config
from edgenode.config.sections import COMPRESSORS
from edgenode.core.algorithm.compression import Floats
from edgenode.errors import CheckpointError
from edgenode.storage.filesystem import write_atomically

SCHEMA = "edgenode/result/1"
SENT = ("messages", "payload_bytes", "wire_bytes", "dense_bytes")
"""The counts of a node that its row has."""
_STACKED = 1024  # models of which all are in memory twice
_NOISE = 0.02  # two evaluations of equally good models differ by less test accuracy than this


@dataclass(frozen=True)
class NodeResult:
    """The results of one node. Messages and bytes are those that it sent.

    Attributes:
        test_accuracy: 0 to 1. None if the workload has no test.
        dense_bytes: the size of the same messages as uncompressed float32.
        peak_memory_bytes: the most memory that its process held.
        joules_per_round: energy of the whole board or processor in training. None without a sensor.
        power_sensor: the sensor that measured the energy, or why none did.
        metrics: the named metrics of the last evaluation. Empty if the test returns a number alone.
        refusal: why it kept its own model in place of the average of the last phase. None if it did not.
    """

    node: str
    test_accuracy: float | None
    u: float
    rounds: int
    messages: int
    payload_bytes: int
    wire_bytes: int
    dense_bytes: int
    peak_memory_bytes: int | None = None
    joules_per_round: float | None = None
    power_sensor: str = "not measured"
    refusal: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def summary(
    config: Config, nodes: Sequence[NodeResult], wall_s: float, models: Sequence[Floats] | None = None
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        models: z of every node, [n][d]. Without them the divergences are null.

    ``parameter_divergence_l2`` is 1/n sum |z_i - mean z| (section 4), and ``parameter_divergence_mse`` the mean square
    of the same differences. ``compression_factor`` is dense bytes over payload bytes, over all phases. It is null
    for an algorithm whose messages are empty.
    """
    algorithm = config.algorithm
    l2, mse = divergence(models) if models else (None, None)
    payload = sum(n.payload_bytes for n in nodes) if algorithm.definition.communicates else 0
    return {
        "schema": SCHEMA,
        "algorithm": algorithm.name,
        "compressor": describe_compressor(config),
        "nodes": [asdict(n) for n in nodes],
        "mean_test_accuracy": _mean([n.test_accuracy for n in nodes]),
        "mean_metrics": mean_metrics([n.metrics for n in nodes]),
        "parameter_divergence_l2": l2,
        "parameter_divergence_mse": mse,
        "sum_u": sum(n.u for n in nodes),
        "compression_factor": sum(n.dense_bytes for n in nodes) / payload if payload else None,
        "wall_s": round(wall_s, 3),
        "config": config.as_dict(),
    }


def _mean(accuracies: Sequence[float | None]) -> float | None:
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(known) / len(known) if known else None


def mean_metrics(of_nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the nodes that have it."""
    names = dict.fromkeys(name for metrics in of_nodes for name in metrics)
    found = {name: [metrics[name] for metrics in of_nodes if name in metrics] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def divergence(models: Sequence[Floats]) -> tuple[float, float]:
    """(mean L2 distance from the mean model, mean squared difference from it)."""
    if len(models) > _STACKED:
        return _divergence_of_many(models)
    stacked = np.stack(models).astype(np.float64)
    differences = stacked - stacked.mean(axis=0)
    return float(np.linalg.norm(differences, axis=1).mean()), float((differences**2).mean())


def _divergence_of_many(models: Sequence[Floats]) -> tuple[float, float]:
    """The same, without a copy of all models. The order of its sums is another, so the last digits may be."""
    mean = np.zeros(len(models[0]))
    for model in models:
        mean += model
    mean /= len(models)
    distances = np.array([np.linalg.norm(model - mean) for model in models])
    return float(distances.mean()), float((distances**2).mean() / len(mean))


def no_gain(before: float | None, average: float | None, of_one: bool = False) -> str:
    """Return advice for the case that the average of the models is worse than the models. Empty if it is not worse.

    Args:
        before: mean test accuracy of the models, 0 to 1. None if it was not measured.
        average: test accuracy of their average. None likewise.
        of_one: ``before`` is that of one node's model, which may have been better than the others.
    """
    if before is None or average is None or before - average < _NOISE:
        return ""
    whose = "this node's model" if of_one else "the models"
    why = "if it is so at most nodes, they are too far apart" if of_one else "they are too far apart"
    return (
        f"the average of all models has a test accuracy of {average:.1%}, and {whose} had {before:.1%} before: {why}. "
        "More rounds, a larger share or a smaller learning rate bring them closer. "
        'algorithm.name = "sp" does without the average'
    )


def describe_compressor(config: Config) -> str:
    """A short name of the compressor, such as topk-0.01-int8."""
    algorithm = config.algorithm
    if not algorithm.definition.communicates:
        return "none"
    texts = {"share": f"{algorithm.share:g}", "bits": f"{algorithm.bits}bit", "values": algorithm.values}
    return "-".join([algorithm.compressor, *(texts[key] for key in COMPRESSORS[algorithm.compressor].keys)])


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result.json atomically.

    Raises:
        CheckpointError: the disk does not accept it.
    """
    try:
        write_atomically(path, json.dumps(result, indent=2) + "\n")
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be written: {exc}") from exc


def read_node(path: Path) -> NodeResult:
    """Read the result.json of one node."""
    (node,) = json.loads(path.read_text())["nodes"]
    return NodeResult(**node)
