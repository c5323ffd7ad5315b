"""`edgenode experiment`: what it writes and prints, and how it resumes."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.simulate.simulation import Simulation
from edgenode_lab.experiments import catalogue, parallel, static_tables
from edgenode_lab.experiments.catalogue import EXPERIMENTS
from edgenode_lab.experiments.definitions import Experiment, Figure, Outcome, Row
from edgenode_lab.experiments.runner import OutcomeStore, Trial, Watch

_KEYS = {"run.rounds": 3, "task.batch_size": 8, "algorithm.gossip_rounds": 2}
_SENT = {
    "100": {"algorithm.compressor": "identity", "algorithm.values": "float32"},
    "1": {"algorithm.compressor": "topk", "algorithm.share": 0.01},
}


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """The command takes signals for its own: it is meant to be a process."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(Row((k,), {**_KEYS, **sent}, {"sp": 90.68}) for k, sent in _SENT.items())
    table = Experiment("tiny", "A tiny table", ("K",), ("sp", "scsp"), lambda _: rows, Figure("K", ("sp",)), "little")
    monkeypatch.setitem(catalogue.EXPERIMENTS, "tiny", table)


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ("experiment", *words))


def files(out: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in out.glob("tiny.*") if p.suffix not in (".png", ".pdf")}


def outcomes(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "outcomes.jsonl").read_text().splitlines()]


def test_without_name_all_experiments_are_listed() -> None:
    listed = run().stdout
    assert all(name in listed for name in (*EXPERIMENTS, "fig3", "sizes"))


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_table_csv_figure_and_configs_are_written(tmp_path: Path, jobs: str) -> None:
    result = run("tiny", "--seeds", "2", "--jobs", jobs, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    written = {"tiny.md", "tiny.csv", "tiny.tex", "tiny.png", "tiny.pdf", "configs", "outcomes.jsonl"}
    assert {p.name for p in tmp_path.iterdir()} == written
    assert {p.name for p in (tmp_path / "configs" / "tiny").iterdir()} == {
        f"{k}-seed-{s}.toml" for k in ("1", "100") for s in (0, 1)
    }
    assert result.stdout.strip() == (tmp_path / "tiny.md").read_text().strip()
    assert " ± " in result.stdout
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("1 of 4, ") and "-seed-0: " in first
    assert last.startswith("4 of 4, ") and last.endswith("; 0 s left")


@pytest.mark.slow
def test_validation_leaves_out_what_belongs_to_other_runs(tmp_path: Path) -> None:
    text = run("tiny", "--validate", "--only", "100-", "--out", str(tmp_path)).stdout
    assert "paper" not in text and "Expected" not in text
    assert "With task.validation=0.2 in every run. Accuracy is that on held-out training data, and no" in text
    assert [line["config"]["task"]["validation"] for line in outcomes(tmp_path)] == [0.2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "fig3", "sizes"])
def test_without_matplotlib_only_the_figure_is_missing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgenode.observability.plotting.available", lambda: False)
    monkeypatch.setattr(static_tables, "EFFECTIVE_BATCH", 16)
    monkeypatch.setattr(static_tables, "_PAPER_FACTORS", {"ResNet-20": static_tables._PAPER_FACTORS["ResNet-20"]})
    result = run(name, "--jobs", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    pasted = {f"{name}.tex"} if name == "tiny" else set()
    assert {p.name for p in tmp_path.glob(f"{name}.*")} == {f"{name}.md", f"{name}.csv", *pasted}
    assert "![" not in result.stdout
    warning = f"edgenode: warning: {name}.png is not drawn: matplotlib is not installed: pip install 'edgenode[plots]'"
    assert (warning in result.stderr) == (name != "sizes")


class StallsInSecondTrial(OutcomeStore):
    """Its first trial ends. The next one never gets past its second round, however slow the parent is."""

    def run(self, trial: Trial, watch: Watch) -> Outcome:
        if not self._file.exists():
            return super().run(trial, watch)

        def watch_and_stall(simulation: Simulation) -> Callable[[], None]:
            report = watch(simulation)

            def after_round() -> None:
                report()
                if simulation.round == 2:
                    time.sleep(600)

            return after_round

        return super().run(trial, watch_and_stall)


@pytest.mark.slow
def test_interrupted_experiment_resumes_to_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("tiny", "--jobs", "1", "--out", str(tmp_path / "whole"))
    out, play = tmp_path / "stopped", parallel.run_trials

    def stopped(todo: Sequence[Trial], _: OutcomeStore, jobs: int) -> Iterator[Any]:
        ended = 0
        with closing(play(todo, StallsInSecondTrial(out), jobs)) as messages:
            for cell, message in messages:
                if ended == 1:  # the second run has begun
                    raise KeyboardInterrupt
                ended += not isinstance(message, int)
                yield cell, message

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "run_trials", stopped)
        result = run("tiny", "--jobs", "1", "--out", str(out))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-2] == f"edgenode: finished runs are saved; the same command resumes from {out}"
    assert files(out) != files(tmp_path / "whole")
    result = run("tiny", "--out", str(out))
    assert result.stderr.startswith("1 of 1, 1-seed-0: ")
    assert files(out) == files(tmp_path / "whole")
    assert run("tiny", "--out", str(out)).stderr == ""  # nothing is left to do


@pytest.mark.slow
def test_added_seeds_and_partial_rows_keep_finished_runs(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    assert "1 of 1, 1-seed-0" in run("tiny", "--only", "1-", "--only", "seed-0", *out).stderr
    assert "| 100 |  | 90.68 |  |" in (tmp_path / "tiny.md").read_text()
    assert "1 of 3, 100-seed-0" in run("tiny", "--seeds", "2", "--jobs", "1", *out).stderr


@pytest.mark.slow
def test_set_key_is_in_every_run_and_in_the_report(tmp_path: Path) -> None:
    plain = run("tiny", "--out", str(tmp_path))
    changed = run("tiny", "--set", "task.precision=bfloat16", "--out", str(tmp_path))
    assert changed.exit_code == 0, changed.output
    assert "edgenode experiment tiny --scale smoke --seeds 1 --set task.precision=bfloat16\n" in changed.stdout
    assert " With task.precision=bfloat16 in every run. " in changed.stdout
    assert all('precision = "bfloat16"' in path.read_text() for path in (tmp_path / "configs" / "tiny").iterdir())
    assert len(outcomes(tmp_path)) == 4
    assert "With" not in plain.stdout


@pytest.mark.slow
def test_own_experiment_writes_the_same_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    common = '[run]\nrounds = 3\n[task]\nbatch_size = 8\n[algorithm]\nname = "scsp"\ngossip_rounds = 2\n'
    file.write_text(common + '[rows]\n"top-1%" = { algorithm.share = 0.01 }\nalone = { algorithm.name = "local" }\n')
    result = run(str(file), "--seeds", "3-4", "--jobs", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert f"# mine\n\n    edgenode experiment {file} --seeds 3-4\n" in result.stdout
    written = {f"mine.{suffix}" for suffix in ("toml", "md", "csv", "tex", "png", "pdf")}
    assert {path.name for path in tmp_path.glob("mine.*")} == written
    assert {path.name for path in (tmp_path / "configs" / "mine").iterdir()} == {
        f"{row}-seed-{s}.toml" for row in ("top-1", "alone") for s in (3, 4)
    }
    assert run(str(file), "--seeds", "3-4", "--out", str(tmp_path)).stderr == ""


def test_scale_is_for_files_that_name_a_network_of_the_paper(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[rows]\na = {}\n")
    refused = run(str(file), "--epochs", "3")
    text = f"edgenode: leave out --scale, --epochs and --data-dir: {file} has all keys of its runs\n"
    assert (refused.exit_code, refused.stderr) == (2, text)
    file.write_text('columns = ["network"]\n[[rows]]\nnetwork = "ResNet-20"\n')
    assert "--scale small trains on CIFAR: give its folder with --data-dir" in run(str(file), "--scale", "small").stderr


@pytest.mark.slow
def test_shortened_run_shows_sp_and_scsp_each_in_its_column(tmp_path: Path) -> None:
    result = run("tiny", "--set", "run.rounds=2", "--only", "1-", "--out", str(tmp_path))
    assert "2 rounds" in result.stdout
    (outcome,) = outcomes(tmp_path)
    sp, scsp = (100 * o["mean_test_accuracy"] for o in (outcome["before_gossip"], outcome))
    assert sp != scsp
    assert f"| 1 | {sp:.2f} | {scsp:.2f} |" in result.stdout
    assert "Each row is one run." in result.stdout


@pytest.mark.slow
def test_report_of_another_command_is_kept_until_a_run_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    out = ("--jobs", "1", "--out", str(tmp_path))
    assert "warning" not in run("tiny", *out).stderr
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "run_trials", interrupted)
        stopped = run("tiny", "--set", "run.rounds=2", *out)
        added = run("tiny", "--seeds", "2", *out)
    assert stopped.stderr.splitlines()[0] == (
        f"edgenode: warning: the first finished run replaces {tmp_path / 'tiny'}.md, .csv and .png, which "
        "'edgenode experiment tiny --scale smoke --seeds 1' wrote; choose another --out to keep them"
    )
    assert "warning" not in added.stderr
    assert files(tmp_path) == before


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("tiny", "--on", "ray", "--out", str(tmp_path))
    assert (result.exit_code, result.stderr) == (2, "edgenode: --on ray needs Ray: pip install 'edgenode-lab[ray]'\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("tiny", "--set", "run.seed=1"), "run.seed cannot be set for an experiment: use --seeds instead"),
        (("tiny", "--set", "task.precision=float8"), "task.precision"),
        (("tiny", "--set", "task.skew"), "--set task.skew: expected KEY=VALUE"),
        (("table9",), "no experiment 'table9': choose one of table2, "),
        (("table2", "--scale", "paper"), "--data-dir"),
        (("table2", "--epochs", "3"), "--epochs is for --scale small and paper"),
        (("tiny", "--seeds", "0"), "--seeds 0: expected a number of seeds, as in 3, or the first and the last"),
        (("tiny", "--seeds", "5-3"), "--seeds 5-3: expected"),
        (("tiny", "--seeds", "-3"), "--seeds -3: expected"),
        (("mine.toml",), "mine.toml: cannot be read"),
        (("tiny", "--on", "slurm"), "--on slurm: expected ray or ray:HOST:PORT"),
        (("tiny", "--on", "ray:head"), "'head' is not an address: expected host:port"),
        (("tiny", "--only", "seed", "--only", "nothing"), "no run of tiny matches seed and nothing"),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    result = run(*words, "--out", str(tmp_path))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert text in line
