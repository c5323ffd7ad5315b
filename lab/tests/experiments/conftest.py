"""A small experiment on the digits: SP and SCSP at two levels of compression, and a row too large for the scale."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edgenode_lab.experiments.definitions import Experiment, Figure, Row
from edgenode_lab.experiments.scales import Scale

_KEYS = {"run.rounds": 4, "task.batch_size": 8, "algorithm.gossip_rounds": 2}
_WHOLE = {**_KEYS, "algorithm.compressor": "identity", "algorithm.values": "float32"}
_TOP_1 = {**_KEYS, "algorithm.compressor": "topk", "algorithm.share": 0.01}


def _rows(scale: Scale) -> tuple[Row, ...]:
    return (
        Row(("small", "100"), _WHOLE, {"sp": 92.09, "scsp": 92.1}),
        Row(("small", "1"), _TOP_1, {"sp": 90.68}),
        Row(("large", "1"), None, {"sp": 93.32}),
    )


@pytest.fixture
def tiny() -> Experiment:
    return Experiment(
        "tiny", "A tiny table", ("network", "top-K, %"), ("sp", "scsp", "factor"), _rows,
        Figure("top-K, %", ("sp", "scsp"), ("network",)), "that it works",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
