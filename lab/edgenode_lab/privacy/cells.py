"""The settings that `edgenode experiment privacy` attacks: algorithm, graph and skew."""

from __future__ import annotations

from edgenode_lab.privacy.hops import HopCell
from edgenode_lab.privacy.shadows import NODES, Cell

DRAWS = 32
"""The shadow runs of each cell. Every digit is in the training data of half of them."""

LEARNING_RATE = 0.1
"""Of the step that the first round's push tells."""

_COMPLETE = {"topology.graphs": ["complete"]}
_ROTATING = {"topology.graphs": ["a", "b", "c"], "topology.every": "1r"}
_D_PSGD = {"algorithm.name": "d-psgd"}
_SGP = {"algorithm.name": "sgp"}
_TOP_1 = {"algorithm.name": "scsp", "algorithm.share": 0.01}
_ROLLING = {**_TOP_1, "algorithm.compressor": "rolling"}
_DILOCO = {"algorithm.name": "diloco", "run.rounds": 10, "task.local_steps": 10, **_COMPLETE}
_DILOCO_1 = {**_DILOCO, "algorithm.values": "fitted1"}
_HALVING = {"topology.graphs": ["halving"], "run.rounds": 20}  # an exchange takes two rounds with 4 nodes
_MASKED = {**_DILOCO, "algorithm.name": "masked-diloco", "algorithm.values": "int4"}
_4_STEPS = {"run.rounds": 25, "task.local_steps": 4}
_100_STEPS = {"run.rounds": 1, "task.local_steps": 100}
_WHOLE_BATCH = {"task.batch_size": 60}  # all digits of a node, which is best for accuracy under DP-SGD

CELLS = (
    Cell(("D-PSGD, few samples", "complete", "0"), {**_D_PSGD, **_COMPLETE}, samples=160),
    Cell(("SCSP, top 1 %", "ring", "0"), _TOP_1),
    Cell(("D-PSGD", "complete", "0"), {**_D_PSGD, **_COMPLETE}),
    Cell(("DiLoCo, 2 bits", "complete", "0"), _DILOCO),
    Cell(("SCSP, rolling 1 %", "ring", "0"), _ROLLING),
    Cell(("SGP", "ring", "0"), _SGP),
    Cell(("DiLoCo, 1 bit", "complete", "0"), _DILOCO_1),
    Cell(("DiLoCo, masked", "complete", "0"), _MASKED),
    Cell(("DiLoCo, masked, averages", "complete", "0"), _MASKED, averages=True),
    *(
        Cell(
            (f"{name}, epsilon {epsilon}", "complete", "0"),
            {**settings, **_COMPLETE, **_WHOLE_BATCH},
            epsilon=float(epsilon),
        )
        for epsilon in (1, 3, 8)
        for name, settings in (("D-PSGD", _D_PSGD), ("DiLoCo, 2 bits", {**_DILOCO, "privacy.clip_norm": 0.3}))
    ),
    Cell(("SCSP, top 1 %", "ring", "0.8"), _TOP_1, skew=0.8),
    Cell(("DiLoCo, 2 bits", "complete", "0.8"), _DILOCO, skew=0.8),
    Cell(("SCSP, top 1 %", "complete", "0"), {**_TOP_1, **_COMPLETE}),
    Cell(("SCSP, top 1 %", "rotating", "0"), {**_TOP_1, **_ROTATING}),
    Cell(("SCSP, rolling 1 %", "complete", "0"), {**_ROLLING, **_COMPLETE}),
    Cell(("SCSP, rolling 1 %", "rotating", "0"), {**_ROLLING, **_ROTATING}),
    Cell(("SGP", "complete", "0"), {**_SGP, **_COMPLETE}),
    Cell(("SGP", "rotating", "0"), {**_SGP, **_ROTATING}),
    Cell(("D-PSGD", "ring", "0"), _D_PSGD),
    Cell(("D-PSGD", "rotating", "0"), {**_D_PSGD, **_ROTATING}),
    Cell(("DiLoCo, 2 bits", "halving", "0"), {**_DILOCO, **_HALVING}),
    Cell(("DiLoCo, 1 bit", "halving", "0"), {**_DILOCO_1, **_HALVING}),
    Cell(("D-PSGD, 4 local steps", "complete", "0"), {**_D_PSGD, **_COMPLETE, **_4_STEPS}),
    Cell(("D-PSGD, 100 local steps", "complete", "0"), {**_D_PSGD, **_COMPLETE, **_100_STEPS}),
)

_FIRST_ROUND = (
    ("SGP", {"algorithm.name": "sgp"}),
    ("SCSP, top 1 %", _TOP_1),
    ("SCSP, 1 bit", {"algorithm.name": "scsp", "algorithm.compressor": "identity", "algorithm.values": "fitted1"}),
    ("SCSP, rolling 1 %", _ROLLING),
    ("DiLoCo, 2 bits", {"algorithm.name": "diloco", **_COMPLETE}),
    ("DiLoCo, 1 bit", {"algorithm.name": "diloco", "algorithm.values": "fitted1", **_COMPLETE}),
    ("DiLoCo, masked", _MASKED),
)
_ONE_STEP = {"run.rounds": 1, "task.local_steps": 1, "task.momentum": 0.0, "task.learning_rate": LEARNING_RATE}

FIRST_ROUNDS = tuple(
    Cell((name, str(batch), ""), {**settings, **_ONE_STEP, "task.batch_size": batch}, samples=2 * NODES * batch)
    for name, settings in _FIRST_ROUND
    for batch in (1, 8)
)
"""One step of plain SGD on all that a node has: 1 digit, or 8."""

FIRST_ROUND_DRAWS = 8

_10_ROUNDS = {"run.rounds": 10}
_TWO_WAY = {"topology.graphs": ["two-way"]}
_CHORD = {"topology.graphs": ["chord"]}

HOPS = (
    *(HopCell(("D-PSGD", "ring"), {**_D_PSGD, **_10_ROUNDS}, rate) for rate in (0.001, 0.01, LEARNING_RATE)),
    HopCell(("D-PSGD", "ring"), {**_D_PSGD, **_10_ROUNDS}, 0.01, batch=8),
    HopCell(("D-PSGD", "two-way ring"), {**_D_PSGD, **_10_ROUNDS, **_TWO_WAY}, 0.001),
    HopCell(("SGP", "ring with a chord"), {**_SGP, **_10_ROUNDS, **_CHORD}, 0.001),
    HopCell(("SCSP, top 1 %", "ring"), {**_TOP_1, "run.rounds": 200}, 0.001),
    HopCell(("SCSP, rolling 1 %", "ring"), {**_ROLLING, "run.rounds": 500}, 0.001),
)
"""Attacks that reach across nodes. A rolling block is sent once in 100 rounds."""

HOP_DRAWS = 4
