"""`edgenode simulate`: where results go, what it prints, and its exit codes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.simulate.simulation import Simulation

QUICK = (
    "--set",
    "run.threads=1",
    "--set",
    "run.rounds=2",
    "--set",
    "algorithm.name=sp",
    "--set",
    "task.batch_size=200",
)


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """The command takes signals and torch's threads for its own: it is meant to be a process."""
    threads, handlers = torch.get_num_threads(), {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(*words: str, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(group, ("simulate", *words))


def test_without_out_the_result_is_only_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*QUICK)
    assert result.exit_code == 0
    assert "mean of 4 nodes" in result.stdout
    assert "2 rounds, " in result.stdout
    (counts,) = (line for line in result.stderr.splitlines() if "parameters" in line)
    round_of = result.stderr.splitlines()[-1]
    assert counts == "node-0, node-1, node-2, node-3: shared_parameters=19338 local_parameters=0"
    assert round_of.startswith("round 2 of 2, 0 s left, loss ")
    assert list(tmp_path.iterdir()) == []


def test_validation_accuracy_is_not_called_test_accuracy() -> None:
    assert run(*QUICK).stdout.startswith("test accuracy ")
    assert run(*QUICK, "--set", "task.validation=0.1").stdout.startswith("validation accuracy ")


def test_run_toml_of_the_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("[run]\nnodes = 3\n")
    assert "mean of 3 nodes" in run(*QUICK).stdout
    Path("other.toml").write_text("[run]\nnodes = 2\n")
    assert "mean of 2 nodes" in run(*QUICK, EDGENODE_CONFIG="other.toml").stdout


@pytest.mark.slow
def test_average_of_diverged_models_is_warned_of() -> None:
    far = ("task.skew=0.8", "task.learning_rate=0.1", "algorithm.share=0.001", "algorithm.gossip_rounds=40")
    settings = [
        word for key in ("run.threads=1", "run.rounds=48", "run.evaluate_every=48", *far) for word in ("--set", key)
    ]
    (warning,) = (line for line in run(*settings).stderr.splitlines() if "warning" in line)
    assert "they are too far apart" in warning
    assert "warning" not in run(*settings, "--set", "algorithm.name=sp").stderr


def test_json_is_all_of_standard_output(tmp_path: Path) -> None:
    printed = json.loads(run(*QUICK, "--json", "--out", str(tmp_path)).stdout)
    assert printed == json.loads((tmp_path / "result.json").read_text())


def test_second_start_resumes_unless_fresh(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert "resuming" not in run(*QUICK, "--out", out).stderr
    assert f"resuming from round 2 of 2, saved in {out}\n" in run(*QUICK, "--out", out).stderr
    other = ("--set", "run.seed=1")
    refused = run(*QUICK, *other, "--out", out)
    assert refused.exit_code == 2
    assert "is of another run" in refused.stderr
    fresh = run(*QUICK, *other, "--out", out, EDGENODE_FRESH="1")
    assert fresh.exit_code == 0
    assert "resuming" not in fresh.stderr


@pytest.mark.parametrize(
    ("words", "where"),
    [((), "nothing is saved without --out DIR"), (("--out", "x"), "the same command resumes from x")],
)
def test_ctrl_c_is_exit_code_130_and_prints_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], where: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Simulation, "run", interrupted)
    result = run(*QUICK, *words)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"edgenode: 0 of 2 rounds done; {where}\nedgenode: interrupted\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--config", "nowhere.toml"), "nowhere.toml: cannot be read: No such file or directory"),
        (("--set", "task.model=small-cn"), "model 'small-cn' is unknown: did you mean 'small-cnn'?"),
        (("--set", "task.dataset=digit"), "dataset 'digit' is unknown: did you mean 'digits'?"),
        (("--set", "task.classes=cat,dog"), "digits has no class 'cat', which task.classes names"),
        (("--set", "task.skew=1.2"), 'task.skew = "1.2", but it must be a number from 0 to 1'),
        (("--set", "topology.graphs=ring"), "no graph named 'ring'"),
        (("--set", "run.nodes=16385"), "run.nodes = "),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(words: tuple[str, ...], text: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    *progress, line = result.stderr.splitlines()
    assert all(other.startswith("loading the data") for other in progress)  # on a slow machine
    assert line.startswith("edgenode: ")
    assert text in line


def test_history_is_written_beside_the_result_and_tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*QUICK, "--out", "one", "--history", "1", "--track", "tensorboard:board")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in Path("one/history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(path.name for path in Path("board").iterdir()) == [f"node-{i}" for i in range(4)]
    seen = b"".join(path.read_bytes() for path in Path("board/node-0").iterdir())
    assert b"bytes/sent" in seen
    assert b"consensus_distance" in seen


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("--history", "1"), "--history needs --out DIR"), (("--track", "tensorboard:b"), "--track needs --history N")],
)
def test_history_without_a_folder_is_refused(words: tuple[str, ...], expected: str) -> None:
    result = run(*QUICK, *words)
    assert result.exit_code == 2
    assert expected in result.stderr
