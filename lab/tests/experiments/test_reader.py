"""An experiment in a file: a run.toml with rows, refused by name where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgenode.errors import ConfigError
from edgenode_lab.experiments import catalogue, reader, report, runner
from edgenode_lab.experiments.scales import choose_scale

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


def test_rows_have_the_common_keys_and_their_own(file: Path) -> None:
    top, alone = reader.read(file).rows(choose_scale("smoke"))
    common = {"run.rounds": 4, "task.dataset": "digits"}
    assert top.labels == ("top-1%",) and alone.labels == ("alone",)
    assert top.settings == common | {"algorithm.compressor": "topk", "algorithm.share": 0.01}
    assert alone.settings == common | {"algorithm.name": "local"}


def test_heading_names_the_file_and_not_the_paper(file: Path) -> None:
    experiment = reader.read(file)
    runs = runner.trials(runner.rows_as_run(experiment, choose_scale("smoke"), {"task.skew": "0.5"}), range(2))
    heading = report.Heading.of(experiment, runs, "command", ["task.skew=0.5"])
    assert heading.title == "shares {1}"
    assert heading.conditions == (
        "small-cnn trains on the digits for 4 rounds, with SGD at a constant learning rate of 0.1. "
        "With task.skew=0.5 in every run."
    )
    assert "Expected" not in report.markdown(experiment, heading, [])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[run]\nrounds = 3", "it needs rows, as in"),
        ("rows = 3", "it needs rows, as in"),
        ("[rows", "not valid TOML"),
        ("name = 'x'\n[rows]\na = {}", "expected [rows] and sections of run.toml, not name"),
        ("title = 3\n[rows]\na = {}", "Expected `str`, got `int` - at `$.title`"),
        ("title = '{rows}'\n[rows]\na = {}", "title = '{rows}', but its fields are network, graph and data"),
        ("columns = ['skews']\n[rows]\na = {}", "'skews' is in columns, but must be \"row\", "),
        ("metrics = ['bytes']\n[rows]\na = {}", "'bytes' is in metrics, but it must be "),
        ("[figure]\nx = 'skew'\ny = ['sp']\n[rows]\na = {}", "[figure] has 'skew', which is not in columns"),
        ("[figure]\nx = 'row'\ny = ['sp']\nz = 1\n[rows]\na = {}", "unknown field `z`"),
        ("[each]\ntask.skew = 0.8\n[rows]\na = {}", "[each]: task.skew needs a list of values"),
        ("each = 3\n[rows]\na = {}", "[each]: expected [rows] and sections of run.toml, not "),
        ("[[rows]]\nnetwork = 'ResNet'", "row 1: network = 'ResNet', but it must be \"ResNet-20\", "),
        ("[[rows]]\nlength = 0", "row 1: Expected `int` >= 1"),
        ("[[rows]]\npaper = { sp = 'x' }", "row 1: Expected `float`, got `str`"),
        ("columns = ['skew']\n[[rows]]\n[[rows]]", "rows '0' and '0' would have one file name"),
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
        reader.read(path)
    assert str(raised.value).startswith(str(path))


TABLE = """
title = "Shares, {graph}"
columns = ["skew", "row"]
metrics = ["sp", "scsp"]
[figure]
x = "skew"
y = ["scsp"]
series = ["row"]
[each]
task.skew = [0.8, 0.0]
[run]
rounds = 4
[rows]
whole = { algorithm.compressor = "identity", algorithm.values = "float32", paper = { sp = 90.5 } }
"one in four" = { algorithm.share = 0.25 }
"""


def test_rows_are_copied_for_each_value_and_named_by_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "shares.toml"
    path.write_text(TABLE)
    experiment = reader.read(path)
    rows = experiment.rows(choose_scale("smoke"))
    assert [row.labels for row in rows] == [
        ("0.8", "whole"), ("0.8", "one in four"), ("0", "whole"), ("0", "one in four"),
    ]  # fmt: skip
    assert [row.paper for row in rows] == [{"sp": 90.5}, {}] * 2
    assert rows[1].settings == {"run.rounds": 4, "task.skew": 0.8, "algorithm.share": 0.25}
    assert (experiment.metrics, experiment.figure.series) == (("sp", "scsp"), ("row",))
    played = runner.trials(runner.rows_as_run(experiment, choose_scale("smoke")), [0])
    assert report.Heading.of(experiment, played, "command", []).title == "Shares, ring a"


def test_network_of_the_paper_brings_the_settings_of_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('columns = ["network"]\n[[rows]]\nnetwork = "VGG-11"\nlength = 2\ntask.skew = 0.5\n')
    (row,) = reader.read(path).rows(choose_scale("smoke"))
    assert row.labels == ("LeNet-5 for VGG-11",)
    assert row.settings == {
        "task.model": "lenet5", "task.learning_rate": 0.02, "run.rounds": 1000, "task.dataset": "fashion-mnist",
        "task.data_dir": "", "task.skew": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table2", "frontier"])
def test_copy_of_a_table_of_the_paper_is_an_experiment_of_ones_own(name: str, tmp_path: Path) -> None:
    copy = tmp_path / f"{name}.toml"
    copy.write_text((Path(catalogue.__file__).parent / "tables" / f"{name}.toml").read_text())
    ours, theirs = reader.read(copy), catalogue.EXPERIMENTS[name]
    assert ours.rows(choose_scale("smoke")) == theirs.rows(choose_scale("smoke"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: cannot be read"):
        reader.read(tmp_path / "none.toml")
