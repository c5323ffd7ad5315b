"""Warns about settings that are valid but useless with this data or model, once both are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.topology.period import Period

_MUCH_MORE = 2.0


def task_warnings(
    config: Config, tensors: Sequence[int], samples: int, classes: int, rounds_per_epoch: int
) -> Iterator[str]:
    """One line for each key that cannot mean what it says.

    Args:
        tensors: the size of each tensor of the model.
        samples: the number of this node's samples.
        classes: the number of classes of the data set.
    """
    run, task, algorithm = config.run, config.task, config.algorithm
    if task.batch_size > samples:
        yield f"task.batch_size = {task.batch_size}, but this node has {samples} samples: each batch is all of them"
    if task.alpha is None and task.skew == 1 and run.nodes > classes > 1:
        yield (
            f"task.skew = 1 and run.nodes = {run.nodes}, but there are {classes} classes: "
            "most nodes have samples of one class only"
        )
    if algorithm.compressor == "topk" and algorithm.definition.communicates:
        kept, size = sum(max(1, int(algorithm.share * n)) for n in tensors), sum(tensors)
        if kept > _MUCH_MORE * algorithm.share * size:
            yield (
                f"algorithm.share = {algorithm.share:g}, but a message keeps at least one entry of each of the "
                f"{len(tensors)} tensors: {kept / size:.2g} of the model"
            )
    epochs = run.rounds // factory.exchange_rounds(config) / rounds_per_epoch
    if late := [milestone for milestone in task.milestones if milestone >= epochs]:
        yield f"task.milestones has {late[0]}, but the run has {epochs:.3g} epochs: it is not reached"
    if task.warmup_epochs > epochs:
        yield (
            f"task.warmup_epochs = {task.warmup_epochs}, but the run has {epochs:.3g} epochs: the learning rate never "
            "reaches task.learning_rate"
        )
    graphs, every = config.topology.graphs, config.topology.period.rounds(rounds_per_epoch)
    if len(graphs) > 1 and every * (len(graphs) - 1) >= run.rounds:
        used = -(-run.rounds // every)
        yield (
            f"topology.every = {Period(every, 'rounds')}, but the run has {run.rounds} rounds: only {used} of the "
            f"{len(graphs)} graphs are used"
        )
