"""The history of a simulation: its rows, that measuring changes no bit, and that a resumed run has the same rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.errors import CheckpointError
from edgenode.simulate.history import History
from edgenode.simulate.simulation import Simulation

# BatchNorm-free and small; chord makes u unequal, and the last rounds gossip
SETTINGS = {
    "run.nodes": 3,
    "run.rounds": 6,
    "run.threads": 1,
    "run.evaluate_every": 0,
    "run.checkpoint_every": 2,
    "task.skew": 0.5,
    "task.batch_size": 8,
    "task.local_steps": 2,
    "task.learning_rate": 0.02,
    "topology.graphs": ["chord"],
    "algorithm.gossip_graph": "plan",
    "algorithm.gossip_rounds": 3,
}


class Interrupted(Exception):
    """As Ctrl-C, but in a chosen round."""


def config(**changes: object) -> Config:
    return load(None, {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}, environ={})


def untimed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "wall_s"}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def play(folder: Path, every: int = 2, until: int | None = None) -> dict[str, Any]:
    simulation = Simulation(config(), folder, history=History(every, folder))

    def after_round() -> None:
        if simulation.round == until:
            raise Interrupted

    return simulation.run(after_round)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("history")
    return folder, play(folder)


def test_each_node_has_a_row_every_two_rounds_and_at_the_end(played: tuple[Path, dict[str, Any]]) -> None:
    folder, result = played
    rows = lines(folder)
    assert [row["round"] for row in rows[::3]] == [0, 2, 4, 6, 8, 9]
    assert [row["node"] for row in rows[:3]] == ["node-0", "node-1", "node-2"]
    assert [row["steps"] for row in rows[::3]] == [0, 4, 8, 12, 12, 12]  # two a round, and none in the last phase
    first, last = rows[:3], rows[-3:]
    assert {row["consensus_distance"] for row in first} == {0.0}
    assert [row["accuracy"] for row in last] == [node["test_accuracy"] for node in result["nodes"]]
    assert [row["payload_bytes"] for row in last] == [node["payload_bytes"] for node in result["nodes"]]
    mean = sum(row["consensus_distance"] for row in last) / 3
    assert mean == pytest.approx(result["parameter_divergence_l2"], rel=1e-6)
    assert rows[0]["wall_s"] <= rows[-1]["wall_s"] <= result["wall_s"]


def test_csv_has_the_rows_of_the_json_lines(played: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = played
    with (folder / "history.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = lines(folder)
    assert list(table[0]) == list(rows[0])
    assert [row["payload_bytes"] for row in table] == [str(row["payload_bytes"]) for row in rows]
    assert table[0]["loss"] == ""  # nothing was trained yet


def test_measuring_changes_no_bit(played: tuple[Path, dict[str, Any]]) -> None:
    _, result = played
    assert untimed(Simulation(config()).run()) == untimed(result)


@pytest.mark.slow
@pytest.mark.parametrize("until", [3, 4, 7])
def test_resumed_run_has_the_same_rows(until: int, tmp_path: Path, played: tuple[Path, dict[str, Any]]) -> None:
    folder, result = played
    with pytest.raises(Interrupted):
        play(tmp_path, until=until)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"round": 4, "no')  # a line that power took away
    assert untimed(play(tmp_path)) == untimed(result)
    seen = [untimed(row) for row in lines(tmp_path)]
    expected = [untimed(row) for row in lines(folder)]
    for row in (*seen, *expected):  # the process that resumed has not taken the last step before these rounds
        if row["round"] == until // 2 * 2 or row["round"] > max(6, until):
            row["loss"] = None
    assert seen == expected
    times = [row["wall_s"] for row in lines(tmp_path)]
    assert times == sorted(times)


def test_finished_run_keeps_its_rows(tmp_path: Path) -> None:
    play(tmp_path)
    before = (tmp_path / "history.jsonl").read_text()
    play(tmp_path)
    assert (tmp_path / "history.jsonl").read_text() == before


def test_history_of_an_earlier_run_in_the_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"round": 0, "node": "of-another-run", "wall_s": 3.0}\n')
    play(tmp_path, every=4)
    assert "of-another-run" not in (tmp_path / "history.jsonl").read_text()


def test_history_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"the history in .* cannot be written"):
        play(tmp_path)
