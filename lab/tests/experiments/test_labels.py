"""Rows, titles and conditions name what runs, after the scale and --set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from edgenode_lab.experiments import labels, runner
from edgenode_lab.experiments.catalogue import EXPERIMENTS
from edgenode_lab.experiments.report import Heading
from edgenode_lab.experiments.runner import Trial
from edgenode_lab.experiments.scales import Scale, choose_scale

SMOKE = choose_scale("smoke")


def played(name: str, overrides: Mapping[str, str] = MappingProxyType({}), scale: Scale = SMOKE) -> list[Trial]:
    return runner.trials(runner.rows_as_run(EXPERIMENTS[name], scale, overrides), [0])


def rows(name: str, **overrides: str) -> list[tuple[str, ...]]:
    return [trial.row.labels for trial in played(name, {key.replace("__", "."): v for key, v in overrides.items()})]


def heading(name: str, overrides: Mapping[str, str] = MappingProxyType({}), scale: Scale = SMOKE) -> Heading:
    return Heading.of(EXPERIMENTS[name], played(name, overrides, scale), "", [f"{k}={v}" for k, v in overrides.items()])


def test_row_names_the_network_that_runs_and_the_papers() -> None:
    rows = runner.rows_as_run(EXPERIMENTS["table4"], SMOKE)
    names = list(dict.fromkeys(row.labels[0] for row in rows))
    assert names == ["small-cnn for ResNet-20", "LeNet-5 for VGG-11", "ResNet-110, CIFAR-100"]
    assert played("table4")[0].name == "small-cnn-for-ResNet-20-100-seed-0"


def test_title_names_what_all_runs_have_in_common() -> None:
    fig2, table4 = "Figure 2: SP and SCSP with and without data skew", "Table 4: Sparse-Push and Skew-Compensated"
    assert labels.paper_title(EXPERIMENTS["fig2"]) == f"{fig2}, VGG-11, ring a"
    assert heading("fig2").title == f"{fig2}, LeNet-5 for VGG-11, ring a"
    assert heading("fig2", {"task.model": "small-cnn"}).title == f"{fig2}, small-cnn for VGG-11, ring a"
    assert heading("table4").title == f"{table4} Sparse-Push, ring a, IID data"
    changed = {"task.skew": "0.8", "topology.graphs": "chord"}
    assert heading("table4", changed).title == f"{table4} Sparse-Push, graph chord, data with skew 0.8"
    assert heading("table4", {"task.alpha": "0.1"}).title.endswith("ring a, data with alpha 0.1")


def test_task_of_ones_own_is_named_by_its_class() -> None:
    assert heading("epsilon", {"run.rounds": "5"}).conditions.startswith(
        "PrivateFashion trains on data of its own for 5 rounds, with SGD at a constant learning rate of 0.05, "
        "SGD at a constant learning rate of 0.5 or SGD at a constant learning rate of 4."
    )


def test_conditions_are_those_of_the_runs(tmp_path: Path) -> None:
    assert heading("table4", {"run.rounds": "30"}).conditions == (
        "small-cnn, in place of ResNet-20, trains on Fashion-MNIST for 30 rounds, "
        "with SGD at a constant learning rate of 0.02. "
        "LeNet-5, in place of VGG-11, trains on Fashion-MNIST for 30 rounds, "
        "with SGD at a constant learning rate of 0.02. "
        "The paper trains on CIFAR for 78,200 rounds. With run.rounds=30 in every run."
    )
    assert " for 2,000, 8,000 or 20,000 rounds, " in heading("longer").conditions
    assert (
        "trains on the digits for 1 round, "
        in heading("fig6", {"run.rounds": "1", "task.dataset": "digits"}).conditions
    )
    assert heading("table6", scale=choose_scale("small", tmp_path, 4)).conditions.startswith(
        "ResNet-20 trains on CIFAR-10 for 1,564 rounds, "
        "with SGD at a learning rate of 0.1, times 0.1 after epochs 2 and 3. The paper"
    )
    assert heading("fig6", scale=choose_scale("paper", tmp_path)).conditions == (
        "ResNet-20 with GroupNorm trains on CIFAR-10 for 78,200 rounds, with SGD at a learning rate of 0.1, times 0.1 "
        "after epochs 100 and 150."
    )


def test_conditions_of_many_lengths_and_optimisers_are_one_sentence() -> None:
    assert heading("frontier").conditions == (
        "small-cnn, in place of ResNet-20 with GroupNorm, trains on Fashion-MNIST for 4 to 2,000 rounds, "
        "with SGD at a constant learning rate of 0.02, "
        "AdamW at a learning rate that falls from 0.003 along a cosine, "
        "SGD at a learning rate that falls from 0.03 along a cosine, "
        "Muon at a learning rate that falls from 0.006 along a cosine "
        "or Muon at a learning rate of 0.006 that falls linearly in the second half. "
        "The paper trains on CIFAR for 78,200 rounds."
    )


@pytest.mark.parametrize(
    ("name", "overrides", "shown"),
    [
        ("fig1", {"task__skew": "0.3"}, {("100", "0.3"), ("1", "0.3")}),
        ("fig1", {"task__alpha": "0.5"}, {(k, "alpha 0.5") for k in ("100", "1")}),
        ("fig2", {"algorithm__share": "0.05"}, {(skew, k) for skew in ("0", "0.8") for k in ("100", "5")}),
        ("fig6", {"algorithm__compressor": "random", "algorithm__bits": "1", "task__skew": "0"}, {("1 bit", "0")}),
        ("longer", {"run__rounds": "20", "task__skew": "0"}, {("0", k, "20 rounds") for k in ("100", "1", "0.1")}),
        ("table6", {"topology__every": "9r", "algorithm__share": "0.5"},
         {(graphs, "9r", k) for graphs in ("a, b", "a, b, c") for k in ("100", "50")}),
        ("table7", {"algorithm__bits": "2"}, {("32",), ("2",)}),
        ("rolling", {"algorithm__share": "0.2", "task__skew": "0"},
         {("0", "all", "100"), ("0", "largest", "20"), ("0", "rolling", "20")}),
    ],
)  # fmt: skip
def test_labels_follow_set(name: str, overrides: dict[str, str], shown: set[tuple[str, ...]]) -> None:
    assert set(rows(name, **overrides)) == shown


def test_methods_name_what_they_send() -> None:
    methods = [method for (method,) in rows("table3", algorithm__share="0.1")]
    assert methods[:4] == ["CHOCO-SGD, top-10%", "Deep-Squeeze, top-10%", "Sparse-Push, top-10%",
                           "Sparse-Push, rolling 10%"]  # fmt: skip
    assert {"D², top-10%, complete graph", "SGP, uncompressed", "no communication", "centralised SGD"} < set(methods)


@pytest.mark.parametrize(("text", "found"), [("small-cnn", 3), ("ResNet-20", 3), ("LeNet-5 for VGG-11", 3), ("0.1", 2)])
def test_trial_matches_what_its_report_shows(text: str, found: int) -> None:
    assert sum(trial.matches(text) for trial in played("table4")) == found
    assert all(trial.matches("LeNet-5") for trial in played("fig2"))  # shown in the title
