"""The task of `edgenode experiment epsilon`: what its nodes hold, and that its attack finds what it must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.tasks.task import NodeInfo
from edgenode_lab.experiments import runner
from edgenode_lab.experiments.catalogue import EXPERIMENTS
from edgenode_lab.experiments.definitions import METRICS
from edgenode_lab.experiments.scales import choose_scale
from edgenode_lab.privacy.fashion import PrivateFashion
from lab.tests.test_datasets import write_idx

TRAIN, TEST, NODES, BRIGHT = 800, 400, 4, 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Random images. Training images have a bright first pixel, and the number of the image in the next two."""
    random = np.random.default_rng(0)
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        images = random.integers(0, 200, (count, 28, 28)).astype(np.uint8)
        images[:, 0, 0] = BRIGHT if prefix == "train" else 0
        images[:, 0, 1], images[:, 0, 2] = np.arange(count) // 256, np.arange(count) % 256
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


def nodes(folder: Path) -> list[NodeInfo]:
    return [NodeInfo(f"node-{i}", folder, nodes=NODES) for i in range(NODES)]


def numbers(images: Tensor) -> set[int]:
    return {int(image[0, 0, 1]) * 256 + int(image[0, 0, 2]) for image in images}


class KnowsTraining(nn.Module):
    """Surer that a training image is of class 0 than it is of any other image."""

    def __init__(self, of_others: float) -> None:
        super().__init__()
        self._of_others = of_others

    def forward(self, images: Tensor) -> Tensor:
        first = images[:, 0, 0, 0]
        logits = self._of_others + 9 * (first == first.max()).float()
        return logits[:, None] * torch.eye(10)[0]


def batches(task: PrivateFashion, node: NodeInfo) -> list[tuple[Tensor, ...]]:
    test = task.test_data(node)
    return [test.__getitems__(list(range(len(test))))]  # type: ignore[attr-defined]


def test_parts_of_the_nodes_are_disjoint_and_the_attacked_images_are_the_own(folder: Path) -> None:
    task = PrivateFashion()
    parts = [numbers(task.train_data(node).images) for node in nodes(folder)]  # type: ignore[attr-defined]
    assert len(set.union(*parts)) == sum(map(len, parts)) == TRAIN
    for node, part in zip(nodes(folder), parts, strict=True):
        ((images, _, kinds),) = batches(task, node)
        assert numbers(images[kinds == 2]) == part
        assert len(numbers(images[kinds == 0])) == TEST


def test_classes_do_not_tell_members_from_others(folder: Path) -> None:
    task = PrivateFashion(skew=0.8)
    for node in nodes(folder):
        ((_, labels, kinds),) = batches(task, node)
        shares = [torch.bincount(labels[kinds == kind], minlength=10) / (kinds == kind).sum() for kind in (1, 2)]
        assert torch.allclose(*shares, atol=0.05)
        assert shares[1].max() > 0.2


@pytest.mark.parametrize("of_others", [0, 200])  # the loss of a logit of 200 is 0 to rounding
@torch.no_grad()
def test_attack_finds_what_a_model_remembers_and_nothing_else(folder: Path, of_others: float) -> None:
    task, node = PrivateFashion(skew=0.0), nodes(folder)[0]
    ((images, labels, kinds),) = batches(task, node)
    of_one_class = labels == 0
    batch = [(images[of_one_class], labels[of_one_class], kinds[of_one_class])]
    assert task.evaluate(KnowsTraining(of_others), batch)["found"] == 1
    task.train_data(node)
    assert task.evaluate(task.model(), batches(task, node))["found"] < 0.1


def test_node_without_a_number_is_refused(folder: Path) -> None:
    for name in ("kitchen", "node-4"):
        with pytest.raises(ConfigError, match=r"the name must end in a number from 0 to 3"):
            PrivateFashion().train_data(NodeInfo(name, folder, nodes=NODES))


def test_network_is_one_of_two() -> None:
    counts = [
        sum(p.numel() for p in PrivateFashion(network=name).model().parameters()) for name in ("small", "published")
    ]
    assert counts == [10_186, 26_010]
    with pytest.raises(ConfigError, match=r"there is no 'larger', choose one of small, published"):
        PrivateFashion(network="larger")


@pytest.mark.slow
@pytest.mark.parametrize("row", ["exchange", "alone", "all data"])
def test_row_ends_with_its_metrics(folder: Path, tmp_path: Path, row: str) -> None:
    quick = {"task.data_dir": str(folder), "run.rounds": 1, "task.batch_size": 50}
    rows = runner.rows_as_run(EXPERIMENTS["epsilon"], choose_scale("smoke"), quick)
    (trial,) = [trial for trial in runner.trials(rows, [0]) if trial.matches(f"epsilon 3, {row}")]
    outcome = runner.OutcomeStore(tmp_path / "out").run(trial, lambda simulation: lambda: None)
    found = {name: METRICS[name].of(outcome) for name in EXPERIMENTS["epsilon"].metrics}
    assert 2.9 < (found["epsilon"] or 0) <= 3
    assert found["accuracy"] is not None
    assert found["found"] is not None
    assert ((found["sent"] or 0) > 1e-3) == (row == "exchange")  # MB
