"""`edgenode runs`: the history as a table, as CSV and JSON, and as a plot."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.storage.audit_log import AuditLog
from edgenode.storage.run_history import Recorder, RunEvent, RunHistory
from tests.storage.test_run_history import ABOUT, a_status, record


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(group, ["runs", *words, "--state-dir", str(folder)], env={"COLUMNS": "140"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first = Recorder(RunHistory(tmp_path), ABOUT)
    record(first, 3)
    first.end(a_status(9, payload_bytes=2000, dense_bytes=90_000), "done", [RunEvent(1e9, 7, "evicted", "[red]n1")])
    record(Recorder(RunHistory(tmp_path), {**ABOUT, "config": "[run]\nnodes = 2\n"}), 2)
    return tmp_path


def test_runs_are_listed_as_a_table_and_as_json(folder: Path) -> None:
    table = run(folder, "list").output
    assert "topk-0.01-int8" in table
    assert "done" in table
    assert "not ended" in table
    assert [r["outcome"] for r in json.loads(run(folder, "list", "--json").output)] == ["done", None]


def test_audit_log_is_shown_as_a_table_and_as_json(folder: Path) -> None:
    assert "no operator has requested anything yet" in run(folder, "audit").output
    log = AuditLog(folder)
    log.end(log.begin("operator anna", "evict [red]n1"), "round 42")
    log.begin("operator anna", "stop")
    text = run(folder, "audit").output
    assert re.search(r"\d\d:\d\d:\d\d +operator anna +evict \[red\]n1 +round 42", text)
    assert re.search(r"stop +not known", text)
    assert [entry["outcome"] for entry in json.loads(run(folder, "audit", "--json").output)] == ["round 42", None]


def test_run_is_shown_with_nodes_and_configuration(folder: Path) -> None:
    text = run(folder, "show", "1").output
    assert "run 1 of home: done" in text
    assert "2.0 kB" in text
    assert "90.0 kB" in text
    assert run(folder, "show").output.endswith("run.toml:\n\n[run]\nnodes = 2\n")
    assert [n["round"] for n in json.loads(run(folder, "show", "1", "--json").output)["nodes"]] == [9, 11]


def test_run_is_shown_with_its_events_and_the_sum_of_its_nodes(folder: Path) -> None:
    text = run(folder, "show", "1").output
    assert "4.0 kB" in text
    assert re.search(r"\d\d:\d\d:\d\d +7 +evicted +\[red\]n1", text)
    (event,) = json.loads(run(folder, "show", "1", "--json").output)["events"]
    assert (event["round"], event["kind"], event["text"]) == (7, "evicted", "[red]n1")


def test_run_shows_and_plots_its_last_known_accuracy_after_a_resume(folder: Path) -> None:
    Recorder(RunHistory(folder), ABOUT, resumed=True).end(a_status(6, accuracy=0.512, payload_bytes=1000), "stopped")
    Recorder(RunHistory(folder), ABOUT, resumed=True).note(a_status(6, accuracy=None, payload_bytes=2000))
    assert "51.2%" in run(folder, "show", "last").output
    assert run(folder, "plot", "last", "--out", str(folder / "run.png")).exit_code == 0


def test_run_is_exported_as_csv_and_as_json(folder: Path) -> None:
    rows = list(csv.DictReader(run(folder, "export", "1").output.splitlines()))
    assert (len(rows), rows[-2]["node"], rows[-2]["round"], rows[-1]["accuracy"]) == (8, "n0", "9", "")
    out = folder / "run.json"
    assert run(folder, "export", "last", "--format", "json", "--out", str(out)).output == ""
    assert [s["round"] for s in json.loads(out.read_text())] == [0, 2, 1, 3]


def test_plot_has_the_format_of_the_file_name(folder: Path) -> None:
    for name, start in (("run.png", b"\x89PNG"), ("run.svg", b"<?xml")):
        assert run(folder, "plot", "1", "--out", str(folder / name)).exit_code == 0
        assert (folder / name).read_bytes().startswith(start)
    refused = run(folder, "plot", "1", "--out", str(folder / "run.odd"))
    assert (refused.exit_code, "run.odd: Format 'odd' is not supported" in refused.stderr) == (2, True)


def test_plot_without_matplotlib_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.observability.plotting.available", lambda: False)
    refused = run(folder, "plot", "1", "--out", str(folder / "run.png"))
    assert (refused.exit_code, refused.stderr) == (
        2,
        "edgenode: cannot plot: matplotlib is not installed: pip install 'edgenode[plots]'\n",
    )
    assert not (folder / "run.png").exists()


def test_unknown_run_is_one_line(folder: Path, tmp_path: Path) -> None:
    refused = run(folder, "show", "7")
    assert (refused.exit_code, refused.stderr) == (2, "edgenode: no run 7: choose one from 1 to 2, or last\n")
    empty = run(tmp_path / "empty", "show")
    assert (empty.exit_code, "no runs in" in empty.stderr) == (2, True)
    listed = run(tmp_path / "empty", "list").output
    assert listed.startswith(f"no runs in {tmp_path / 'empty' / 'history.sqlite3'} on this machine; ")
    assert "run this command there" in listed
