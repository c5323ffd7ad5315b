"""A table in LaTeX: its numbers, its caption, and text that LaTeX would misread."""

from __future__ import annotations

from edgenode.config.load import load
from edgenode_lab.experiments import latex
from edgenode_lab.experiments.definitions import Experiment
from edgenode_lab.experiments.report import Heading, RowOutcomes
from edgenode_lab.experiments.scales import choose_scale
from lab.tests.experiments.test_report import outcome


def test_table_has_significant_digits_and_a_caption_with_what_differs(tiny: Experiment) -> None:
    dense, sparse, large = tiny.rows(choose_scale("smoke"))
    results = [
        RowOutcomes(dense, {0: outcome(0.85, 0.87), 1: outcome(0.8742, 0.8801)}),
        RowOutcomes(sparse, {0: outcome(0.80, 0.84, 400), 1: {"error": "training diverged"}}),
        RowOutcomes(large, {}),
    ]
    configs = [load(None, {"run.seed": seed, **(row.settings or {})}, {}) for seed in (0, 1) for row in (dense, sparse)]
    heading = Heading("A & B_1", "edgenode experiment tiny", "100 % of the data.")
    lines = latex.table(tiny, heading, results, configs).splitlines()
    assert lines[0] == "% edgenode experiment tiny"
    assert lines[3] == (
        r"  \caption{A \& B\_1. 100 \% of the data. Mean $\pm$ standard deviation of 2 seeds. Rows differ in "
        r"algorithm.compressor: identity, topk; algorithm.values: float32, fitted1.}"
    )
    assert lines[4:8] == [
        r"  \begin{tabular}{llrrr}",
        r"    \toprule",
        r"    network & top-K, \% & SP accuracy, \% & SCSP accuracy, \% & compression per message \\",
        r"    \midrule",
    ]
    assert lines[8:11] == [
        r"    small & 100 & $86.2 \pm 1.7$ & $87.50 \pm 0.71$ & $80$ \\",
        r"    small & 1 & $80.00$ (1 of 2 diverged) & $84.00$ (1 of 2 diverged) & $200$ (1 of 2 diverged) \\",
        r"    large & 1 & -- & -- & -- \\",
    ]


def test_special_letters_are_escaped() -> None:
    assert latex.escaped(r"50 % \ a_b & D² ~ {x}") == (
        r"50 \% \textbackslash{} a\_b \& D\textsuperscript{2} \textasciitilde{} \{x\}"
    )
