"""Settings that are refused together with others: each as its key, and what it must be."""

from __future__ import annotations

import json
from collections.abc import Iterator

from edgenode.config.schema import Config
from edgenode.errors import one_of


def refused(config: Config) -> Iterator[tuple[str, str]]:
    """Find the settings that do not fit [privacy], or masked messages."""
    if config.privacy.on:
        yield from _with_privacy(config)
    if config.algorithm.definition.masked:
        yield from _with_masks(config)


def _with_privacy(config: Config) -> Iterator[tuple[str, str]]:
    """What would tell more of the data than the guarantee covers, or what the noise cannot be computed for."""
    task, algorithm = config.task, config.algorithm
    table = {
        "task.objective": (task.objective == "samples", "equal", "weights tell the numbers of samples"),
        "task.loss": (task.loss == "balanced", "cross_entropy", "the loss tells the numbers of samples of each class"),
        "task.validation": (task.validation > 0, 0.0, "an evaluation would tell of training samples"),
        "task.precision": (task.precision == "bfloat16", "float32", "gradients of single samples need it"),
        "task.local_steps": (
            task.local_steps == "auto" and config.privacy.noise is None, 1,
            "privacy.noise follows from the number of steps: set it, or this",
        ),
        "algorithm.name": (algorithm.definition.searches_share, "scsp", "it tests models on training samples"),
    }  # fmt: skip
    for key, (wrong, allowed, why) in table.items():
        if wrong:
            yield key, f"with [privacy] it must be {json.dumps(allowed)}: {why}"


def _with_masks(config: Config) -> Iterator[tuple[str, str]]:
    """What masked messages could not be added with, or what would tell a node the message of another."""
    from edgenode.core.algorithm.masked_sum import FEWEST, most_nodes  # only here, because it imports numpy

    algorithm, run = config.algorithm, config.run
    most = {"int4": most_nodes(4), "int8": most_nodes(8)}
    with_masks = f"with {algorithm.name} it must be"
    if algorithm.compressor != "identity":
        yield "algorithm.compressor", f'{with_masks} "identity": all messages have the same entries'
    if algorithm.values not in most:
        yield "algorithm.values", f"{with_masks} {one_of(most)}: masks are added to integers"
    elif not FEWEST <= run.nodes <= most[algorithm.values]:
        why = f"fewer would know each other's change, and the sum of more does not fit {algorithm.values}"
        yield "run.nodes", f"{with_masks} {FEWEST} to {most[algorithm.values]}: {why}"
    if run.on_poison != "report":
        yield "run.on_poison", f'{with_masks} "report": masks cancel in the sum of all messages only'
