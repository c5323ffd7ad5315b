"""The settings that `edgenode experiment privacy` attacks: algorithm, graph and skew."""

from __future__ import annotations

from edgenode_lab.privacy.shadows import NODES, Cell

DRAWS = 16
"""The shadow runs of each cell. Every digit is in the training data of half of them."""

LEARNING_RATE = 0.1
"""Of the step that the first round's push tells."""

_COMPLETE = {"topology.graphs": ["complete"]}
_D_PSGD = {"algorithm.name": "d-psgd", **_COMPLETE}
_TOP_1 = {"algorithm.name": "scsp", "algorithm.share": 0.01}
_ROLLING = {**_TOP_1, "algorithm.compressor": "rolling"}
_DILOCO = {"algorithm.name": "diloco", "run.rounds": 10, "task.local_steps": 10, **_COMPLETE}

CELLS = (
    Cell(("D-PSGD, few samples", "complete", "0"), _D_PSGD, samples=160),
    Cell(("SCSP, top 1 %", "ring", "0"), _TOP_1),
    Cell(("D-PSGD", "complete", "0"), _D_PSGD),
    Cell(("DiLoCo, 2 bits", "complete", "0"), _DILOCO),
    Cell(("SCSP, rolling 1 %", "ring", "0"), _ROLLING),
    Cell(("SCSP, top 1 %", "ring", "0.8"), _TOP_1, skew=0.8),
    Cell(("SGP", "ring", "0"), {"algorithm.name": "sgp"}),
    Cell(("DiLoCo, 2 bits", "complete", "0.8"), _DILOCO, skew=0.8),
)

_FIRST_ROUND = (
    ("SGP", {"algorithm.name": "sgp"}),
    ("SCSP, top 1 %", _TOP_1),
    ("SCSP, 1 bit", {"algorithm.name": "scsp", "algorithm.compressor": "identity", "algorithm.values": "fitted1"}),
    ("SCSP, rolling 1 %", _ROLLING),
    ("DiLoCo, 2 bits", {"algorithm.name": "diloco", **_COMPLETE}),
    ("DiLoCo, 1 bit", {"algorithm.name": "diloco", "algorithm.values": "fitted1", **_COMPLETE}),
)
_ONE_STEP = {"run.rounds": 1, "task.local_steps": 1, "task.momentum": 0.0, "task.learning_rate": LEARNING_RATE}

FIRST_ROUNDS = tuple(
    Cell((name, str(batch), ""), {**settings, **_ONE_STEP, "task.batch_size": batch}, samples=2 * NODES * batch)
    for name, settings in _FIRST_ROUND
    for batch in (1, 8)
)
"""One step of plain SGD on all that a node has: 1 digit, or 8."""

FIRST_ROUND_DRAWS = 8
