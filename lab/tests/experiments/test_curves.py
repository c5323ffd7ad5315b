"""Learning curves: means, confidence intervals, tables and vector figures of fixed histories."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from edgenode.observability import plotting
from edgenode_lab.experiments import curves
from edgenode_lab.experiments.curves import RowHistories, confidence_half, curve
from edgenode_lab.experiments.definitions import Curves, Experiment, Row


def history(*accuracies: float, nodes: int = 2) -> list[dict[str, Any]]:
    return [
        {"round": 5 * t, "node": f"node-{i}", "accuracy": a + 0.01 * i, "payload_bytes": 1_000_000 * t, "loss": None}
        for t, a in enumerate(accuracies)
        for i in range(nodes)
    ]


def results() -> list[RowHistories]:
    seeds = {0: history(0.1, 0.5, 0.7), 1: history(0.1, 0.6, 0.8), 2: history(0.1, 0.7)}  # one is not done
    return [RowHistories(Row(("CHOCO", "1"), {}), seeds), RowHistories(Row(("mine", "1"), {}), {0: history(0.1, 0.3)})]


def test_curve_is_the_mean_over_runs_of_the_mean_over_nodes() -> None:
    points = curve(results()[0], "payload_bytes", "accuracy")
    assert [point.x for point in points] == [0, 1]  # megabytes, in the rounds that all runs have measured
    assert [point.y for point in points] == pytest.approx([10.5, 60.5])
    assert points[1].half == pytest.approx(4.303 * stdev([50.5, 60.5, 70.5]) / 3**0.5)
    assert [point.half for point in curve(results()[1], "round", "accuracy")] == [None, None]
    assert curve(results()[0], "round", "loss") == []


def test_confidence_interval_follows_the_number_of_runs() -> None:
    assert confidence_half([1.0]) is None
    assert confidence_half([0.0, 2.0]) == pytest.approx(12.71)
    assert confidence_half([0.0, 2.0] * 50) == pytest.approx(1.984 * stdev([0.0, 2.0] * 50) / 10, rel=0.002)


@pytest.mark.slow
@pytest.mark.skipif(not plotting.available(), reason=plotting.NOT_INSTALLED)
def test_files_have_every_measurement_and_a_vector_figure(tiny: Experiment, tmp_path: Path) -> None:
    tiny = Experiment(**{**vars(tiny), "curves": Curves(5)})
    curves.write(tiny, results(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "tiny-history.jsonl").read_text().splitlines()]
    with (tmp_path / "tiny-history.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(lines) == 20
    assert list(table[0])[:5] == ["network", "top-K, %", "seed", "round", "node"]
    assert (lines[-1]["network"], lines[-1]["seed"], lines[-1]["accuracy"]) == ("mine", 0, 0.31)
    drawn = (tmp_path / "tiny-curves.pdf").read_bytes()
    assert drawn.startswith(b"%PDF")
    assert b"/Subtype /Image" not in drawn  # all of it is vectors
    curves.write(tiny, results(), tmp_path)
    assert (tmp_path / "tiny-curves.pdf").read_bytes() == drawn


def test_nothing_is_written_without_a_history(tiny: Experiment, tmp_path: Path) -> None:
    curves.write(tiny, [RowHistories(Row(("a", "b"), {}), {})], tmp_path)
    assert list(tmp_path.iterdir()) == []
