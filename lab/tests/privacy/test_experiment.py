"""`edgenode experiment privacy`: what it plays, writes and resumes, and that its attacks see what they must."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.errors import CheckpointError
from edgenode_lab.privacy import cells, experiment, hops, report, shadows, victims
from edgenode_lab.privacy.first_round import FirstRound, attack, first_steps
from edgenode_lab.privacy.shadows import NODES, Cell, Seen, play

_TINY = {"run.rounds": 2}


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """The command takes signals for its own: it is meant to be a process."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(out: Path, *words: str) -> Result:
    return CliRunner().invoke(group, ("experiment", "privacy", "--out", str(out), *words))


def cell(name: str, graph: str = "") -> Cell:
    return next(c for c in (*cells.CELLS, *cells.FIRST_ROUNDS) if name in c.name and graph in c.name)


@pytest.mark.slow
def test_command_writes_both_tables_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "DRAWS", 6)
    monkeypatch.setattr(cells, "FIRST_ROUND_DRAWS", 1)
    monkeypatch.setattr(cells, "HOP_DRAWS", 1)
    result = run(tmp_path, "--only", "SGP", "--set", "run.rounds=2")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "privacy.md").read_text()
    assert "| SGP | ring | 0 |" in page and "neighbour | LiRA" in page and "| SGP | 1 | 4 | 4 | 4 |" in page
    assert "| SGP | ring with a chord | 0.001 | 1 | 4 |" in page
    assert len(list((tmp_path / "privacy").glob("*.npz"))) == 3 * 6 + 2  # three graphs, and two batches

    monkeypatch.setattr(shadows, "_play", None)  # nothing is played again
    assert run(tmp_path, "--only", "SGP", "--set", "run.rounds=2").exit_code == 0
    assert (tmp_path / "privacy.md").read_text() == page


@pytest.mark.slow
def test_what_does_not_apply_is_refused(tmp_path: Path) -> None:
    assert "takes no options but" in run(tmp_path, "--jobs", "2").output
    assert "no row of privacy matches nothing" in run(tmp_path, "--only", "nothing").output
    assert experiment.NAME in CliRunner().invoke(group, ("experiment",)).output


@pytest.mark.slow
def test_damaged_run_names_its_file(tmp_path: Path) -> None:
    play(cell("SGP", "ring"), 0, _TINY, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=path.name):
        play(cell("SGP", "ring"), 0, _TINY, tmp_path)


def test_complementary_draws_share_no_digit_and_fill_each_part() -> None:
    pool = victims.Pool(480, NODES, 0.8)
    first, second = pool.members(4), pool.members(5)
    assert (first != second).all() and not np.array_equal(first, pool.members(6))
    assert [int(first[part.numpy()].sum()) for part in pool.parts] == [60] * 4
    labels = [pool.labels[part].bincount(minlength=10).max().item() for part in pool.parts]
    assert min(labels) > 120 * 0.2  # the skew is there


def follows(chosen: Cell, rounds: int, out: Path) -> tuple[float, float]:
    """Correlations of the confidences of the first and the last copy with those of the final model."""
    seen = play(chosen, 0, {"run.rounds": rounds}, out)
    first, last = (float(np.corrcoef(seen.copies[:, i], seen.final)[0, 1]) for i in (0, -1))
    return first, last


@pytest.mark.slow
def test_copy_from_whole_pushes_is_nearly_the_final_model(tmp_path: Path) -> None:
    """The last push is the model before the last mix."""
    assert follows(cell("D-PSGD, few"), 40, tmp_path)[1] > 0.9
    assert follows(cell("DiLoCo, 2 bits", "complete"), 10, tmp_path)[1] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top 1 %", "rolling"])
def test_copy_from_compressed_pushes_comes_closer(name: str, tmp_path: Path) -> None:
    first, last = follows(cell(name), 100, tmp_path)
    assert last > first + 0.15


def first_round(name: str, batch: int, out: Path) -> FirstRound:
    chosen = next(c for c in cells.FIRST_ROUNDS if c.labels[:2] == (name, str(batch)))
    pool = victims.Pool(chosen.samples, NODES, 0.0)
    seen = play(chosen, 0, {}, out)
    steps = first_steps(pool, seen.members, seen.first)
    return attack(steps, seen.initial, victims.all_images(), cells.LEARNING_RATE)


@pytest.mark.slow
def test_first_uncompressed_push_of_one_digit_gives_it_away(tmp_path: Path) -> None:
    result = first_round("SGP", 1, tmp_path)
    assert (result.digits, result.analytic, result.optimised, result.classes) == (4, 4, 4, 1.0)
    assert result.correlation > 0.999


@pytest.mark.slow
def test_first_uncompressed_push_of_eight_digits_gives_them_away(tmp_path: Path) -> None:
    result = first_round("SGP", 8, tmp_path)
    assert result.digits == 32 and result.optimised >= 28 > result.analytic
    compressed = first_round("SCSP, top 1 %", 8, tmp_path)
    assert compressed.optimised < 8


@pytest.mark.slow
def test_push_without_the_first_layer_identifies_no_digit(tmp_path: Path) -> None:
    chosen = next(c for c in cells.FIRST_ROUNDS if c.labels[:2] == ("SGP", "1"))
    seen = play(chosen, 0, {}, tmp_path)
    steps = first_steps(victims.Pool(8, NODES, 0.0), seen.members, np.zeros_like(seen.first))
    result = attack(steps, seen.initial, victims.all_images(), cells.LEARNING_RATE)
    assert result.analytic == 0 and result.optimised <= 1 and result.correlation < 0.8
    assert result.classes == result.without


def report_of(chosen: Cell) -> list[tuple[str, ...]]:
    """The rows of a cell whose runs tell everything: a member's confidence is 1, and another's 0."""
    pool = victims.Pool(chosen.samples, NODES, chosen.skew)
    empty = np.zeros((NODES, 1), np.float32)
    runs = []
    for draw in range(6):
        members = pool.members(draw)
        told = members[:, None].astype(np.float64)
        accuracy = np.array(0.5)
        final, sent = members.astype(float), np.array(2000.0)
        runs.append(Seen(members, told, np.repeat(told, 2, axis=1), final, empty, empty[0], accuracy, sent))
    return list(report.membership_rows(chosen, runs))


def test_rows_of_private_runs_say_what_epsilon_permits() -> None:
    row, *_ = report_of(cell("D-PSGD, epsilon 1"))
    assert row[3:5] == ("50.0%", "2.0")  # accuracy, and kB
    assert row[-2].startswith("100.0") and row[-2].endswith(", at most 2.7")  # e * 1 % and delta
    assert row[-1].endswith(", at most 0.3")
    assert report_of(cell("D-PSGD, epsilon 8"))[0][-2].endswith(", at most 100.0")
    assert "at most" not in "".join(report_of(cell("D-PSGD, few"))[0])


def test_private_cells_train_with_their_budget() -> None:
    config = cell("DiLoCo, 2 bits, epsilon 3").config(0, {})
    assert (config.privacy.epsilon, config.privacy.delta, config.privacy.reproducible) == (3.0, 1e-5, False)
    assert not cell("SCSP, top 1 %", "ring").config(0, {}).privacy.on


@pytest.mark.slow
def test_all_cells_are_valid_and_have_names_of_their_own() -> None:
    names = [c.name for c in (*cells.CELLS, *cells.FIRST_ROUNDS, *cells.HOPS)]
    assert len(set(names)) == len(names)
    for chosen in cells.CELLS:
        assert chosen.config(0, {}).run.nodes == NODES
    for across in cells.HOPS:
        assert across.config(0).run.nodes == hops.NODES
