"""Reports of fixed outcomes, character by character."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenode.observability import plotting
from edgenode_lab.experiments import report
from edgenode_lab.experiments.definitions import METRICS, Experiment, Figure
from edgenode_lab.experiments.report import Heading, RowOutcomes
from edgenode_lab.experiments.scales import choose_scale

HEADING = Heading("A tiny table", "edgenode experiment tiny", "small-cnn, 4 rounds.")


def outcome(sp: float, scsp: float, message: int = 1000) -> dict[str, Any]:
    def phase(algorithm: str, accuracy: float, messages: int) -> dict[str, Any]:
        node = {"messages": messages, "payload_bytes": messages * message}
        return {
            "algorithm": algorithm, "mean_test_accuracy": accuracy, "nodes": [node, node],
            "compression_factor": 80_000 / message, "parameter_divergence_mse": 1.5e-6,
        }  # fmt: skip

    return {**phase("scsp", scsp, 6), "before_gossip": phase("sp", sp, 4)}


def results(experiment: Experiment) -> list[RowOutcomes]:
    dense, sparse, large = experiment.rows(choose_scale("smoke"))
    return [
        RowOutcomes(dense, {0: outcome(0.85, 0.87), 1: outcome(0.87, 0.88)}),
        RowOutcomes(sparse, {0: outcome(0.80, 0.84, 400), 1: {"error": "training diverged"}}),
        RowOutcomes(large, {}),
    ]


def test_markdown_has_means_spreads_paper_and_empty_cells(tiny: Experiment) -> None:
    text = report.markdown(tiny, HEADING, results(tiny))
    assert text.splitlines()[6:11] == [
        "| network | top-K, % | SP accuracy, % | paper | SCSP accuracy, % | paper | compression per message |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| small | 100 | 86.00 ± 1.41 | 92.09 | 87.50 ± 0.71 | 92.1 | 80 ± 0 |",
        "| small | 1 | 80.00 (1 of 2 diverged) | 90.68 | 84.00 (1 of 2 diverged) |  | 200 (1 of 2 diverged) |",
        "| large | 1 |  | 93.32 |  |  |  |",
    ]
    assert text.startswith("# A tiny table\n\n    edgenode experiment tiny\n\nsmall-cnn, 4 rounds. Each cell")
    assert "Expected: that it works" in text


def test_csv_has_every_trial_unrounded(tiny: Experiment) -> None:
    lines = list(csv.reader(report.comma_separated(tiny, results(tiny)).splitlines()))
    assert lines[0] == ["network", "top-K, %", "seed", "sp", "scsp", "factor", "error"]
    assert lines[1] == ["small", "100", "0", "85.0", "87.0", "80.0", ""]
    assert lines[4] == ["small", "1", "1", "", "", "", "training diverged"]
    assert len(lines) == 5


def test_phase_that_was_not_measured_is_empty(tiny: Experiment) -> None:
    dense, *_ = tiny.rows(choose_scale("smoke"))
    whole = outcome(0.85, 0.87)
    after = {key: value for key, value in whole.items() if key != "before_gossip"}
    assert {name: METRICS[name].of(after) for name in METRICS.own if METRICS[name].of(after) is not None} == {
        name: METRICS[name].of(whole) for name in ("scsp", "run_factor", "sent")
    }
    text = report.markdown(tiny, HEADING, [RowOutcomes(dense, {0: after})])
    assert "| small | 100 |  | 92.09 | 87.00 | 92.1 |  |" in text


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        (0, "No run has finished."),
        (1, "Each row is one run."),
        (2, "Each cell has the mean ± the standard deviation of up to 2 runs."),
    ],
)
def test_number_of_runs_is_named_in_words_that_fit(tiny: Experiment, seeds: int, text: str) -> None:
    row, *_ = tiny.rows(choose_scale("smoke"))
    known = RowOutcomes(row, {seed: outcome(0.85, 0.87) for seed in range(seeds)})
    assert f"4 rounds. {text} Empty cells" in report.markdown(tiny, HEADING, [known])


def test_files_are_written_before_anything_is_measured(tiny: Experiment, tmp_path: Path) -> None:
    nothing = [RowOutcomes(row, {}) for row in tiny.rows(choose_scale("smoke"))]
    for known in (nothing, results(tiny)):
        report.write(tiny, HEADING, known, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"tiny.md", "tiny.csv", "tiny.png", "tiny.pdf"}
        assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_kinds_of_rows_are_points_of_one_colour(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canvas = plotting.new_figure(8, 4)
    monkeypatch.setattr(plotting, "new_figure", lambda width, height: canvas)
    figure = Figure("sent per node, MB", ("sp", "scsp"), ("top-K, %",), ("sp_sent", "sent"), kinds="network")
    report.draw(replace(tiny, figure=figure), results(tiny), [tmp_path / "kinds.png"])
    (axes,) = canvas.axes
    points = [container.lines[0] for container in axes.containers]
    assert [(line.get_marker(), line.get_fillstyle()) for line in points] == [
        ("o", "full"), ("o", "none"), ("s", "full"), ("s", "none"),
    ]  # fmt: skip
    assert {line.get_linestyle() for line in points} == {"None"}
    assert len({line.get_color() for line in points}) == 1
    assert axes.get_legend_handles_labels()[1] == [
        "small", "large", "SP accuracy, top-K, % 100", "SP accuracy, top-K, % 1",
        "SCSP accuracy, top-K, % 100", "SCSP accuracy, top-K, % 1",
    ]  # fmt: skip
