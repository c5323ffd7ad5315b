"""An experiment of one's own: a run.toml with rows, refused by name where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgenode.errors import ConfigError
from edgenode_lab.experiments import labels, own, report, runner
from edgenode_lab.experiments.definitions import Experiment
from edgenode_lab.experiments.presets import choose_scale

FILE = """
[run]
rounds = 4
[task]
dataset = "digits"
[rows]
"top-1%" = { algorithm.compressor = "topk", algorithm.share = 0.01 }
alone = { algorithm.name = "local" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shares {1}.toml"
    path.write_text(FILE)
    return path


def example() -> str:
    """The file in docs/experiments.md."""
    (text,) = re.findall(r"```toml\n(.*?)```", Path("docs/experiments.md").read_text(), re.DOTALL)
    return str(text)


def test_rows_have_the_common_keys_and_their_own(file: Path) -> None:
    top, alone = own.read(file).rows(choose_scale("smoke"))
    common = {"run.rounds": 4, "task.dataset": "digits"}
    assert top.labels == ("top-1%",) and alone.labels == ("alone",)
    assert top.settings == common | {"algorithm.compressor": "topk", "algorithm.share": 0.01}
    assert alone.settings == common | {"algorithm.name": "local"}


def test_heading_names_the_file_and_not_the_paper(file: Path) -> None:
    experiment = own.read(file)
    runs = runner.trials(runner.rows_as_run(experiment, choose_scale("smoke"), {"task.skew": "0.5"}), range(2))
    heading = report.Heading.of(experiment, runs, "command", ["task.skew=0.5"])
    assert heading.title == "shares {1}"
    assert heading.conditions == (
        "small-cnn trains on the digits for 4 rounds, with SGD at a constant learning rate of 0.1. "
        "With task.skew=0.5 in every run."
    )
    assert "Expected" not in report.markdown(experiment, heading, [])


def test_example_of_the_page_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "shares.toml"
    path.write_text(example())
    experiment: Experiment = own.read(path)
    assert len(experiment.rows(choose_scale("smoke"))) == 3
    assert labels.paper_title(experiment) == "shares"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[run]\nrounds = 3", "it needs rows, as in"),
        ("rows = 3", "it needs rows, as in"),
        ("[rows", "not valid TOML"),
        ("title = 'x'\n[rows]\na = {}", "expected [rows] and sections of run.toml, not title"),
        ("[rows]\na = { share = 0.1 }", "row 'a': expected [rows] and sections of run.toml, not share"),
        ("[rows]\na = 3", "row 'a': expected keys of run.toml, as in"),
        ("[rows]\na = { algorithm.shares = 0.1 }", "row 'a': unknown key algorithm.shares = 0.1; did you mean"),
        ("[run]\nrounds = -1\n[rows]\na = {}", "row 'a': run.rounds = -1, but it must be"),
        ("[run]\nseed = 1\n[rows]\na = {}", "row 'a': run.seed cannot be set for an experiment: use --seeds instead"),
        ("[rows]\n'a|b' = {}", "row 'a|b': a label is one line of text, without vertical bars"),
        ("[rows]\n'a b' = {}\na-b = {}", "rows 'a b' and 'a-b' would have one file name"),
    ],
)
def test_wrong_file_is_refused_with_its_row(text: str, error: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(error)) as raised:
        own.read(path)
    assert str(raised.value).startswith(str(path))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        own.read(tmp_path / "none.toml")
