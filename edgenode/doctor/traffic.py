"""Check what a relay would carry: one push of this configuration, made of a step that is trained here."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Layout, block_bounds
from edgenode.core.topology.period import Epoch
from edgenode.doctor import Finding, ok, warning
from edgenode.errors import EdgenodeError
from edgenode.net.relay_limits import BYTES_PER_S
from edgenode.node.task_workload import TaskWorkload
from edgenode.observability.status_view import duration, size

_HOUR_S = 3600
_ENVELOPE_BYTES = 125  # headers, TLS and the answer: benchmarks/notes/performance.md


def relayed(config: Config) -> Iterator[Finding]:
    """What a relay would carry in an hour. Nothing for an algorithm that sends nothing, or a run that cannot be."""
    if not config.algorithm.definition.communicates:
        return
    try:
        push_bytes, round_s = _payload_bytes_and_round_s(config)
        edges = factory.edges_per_round(config)
    except (EdgenodeError, RuntimeError, MemoryError):
        return  # the check of the model reports it
    yield amount(push_bytes + _ENVELOPE_BYTES, round_s, edges, config.run.nodes)


def amount(push_bytes: int, round_s: float, edges: float, nodes: int) -> Finding:
    """The finding for one push on every edge and round.

    Args:
        push_bytes: of a push with its answer, as they pass the relay.
        round_s: seconds of a round, without the time that pushes take.
        edges: the mean number of edges of a round.
    """
    hourly = push_bytes * _HOUR_S / round_s
    text = (
        f"each relayed edge would carry up to {size(round(hourly))} an hour, and all {edges:.4g} edges "
        f"{size(round(hourly * edges))}: {size(push_bytes)} a push with its answer, a round in {_time(round_s)} here"
    )
    if push_bytes * edges / nodes / round_s > BYTES_PER_S:
        remedy = "rounds take longer if all edges are relayed: send less (docs/algorithms.md), or do more local steps"
        return warning("relay", f"{text}, but a relay carries {size(BYTES_PER_S)}/s of a node", remedy)
    return ok("relay", text)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else duration(seconds)


def _payload_bytes_and_round_s(config: Config) -> tuple[int, float]:
    """The bytes of the message that follows a step, and the seconds of the rounds that share it."""
    workload = TaskWorkload(config, "node-0")
    members = [f"node-{i}" for i in range(config.run.nodes)]
    trainer = workload.trainer(members[0], members, Epoch.of([workload.prepare()]))
    z = trainer.initial()
    trainer.train(0, z.copy())  # the first one takes longer
    began = time.perf_counter()
    vector = trainer.train(1, z.copy()).vector
    took_s = time.perf_counter() - began
    spec = factory.algorithm_spec(config)
    step, model = spec.step(1), Layout(tuple(count for _, count in trainer.layout))
    part, vectors = model.part(step.block, spec.blocks), len(spec.rule.sends)
    layout = part.repeated(vectors)
    begin = 0 if step.block is None else int(block_bounds(model.size, spec.blocks)[step.block])
    sent = np.tile(vector[begin : begin + part.size], vectors)
    if config.algorithm.definition.masked:  # noise, which no code shortens
        sent = np.random.default_rng(0).uniform(-1, 1, len(sent)).astype(np.float32)
    payload = step.compressor(sent, layout, np.random.default_rng(0))
    data = (step.compressor.format or codec).encode(payload, layout)
    return len(data), took_s / spec.exchange_rounds
