"""``edgenode runs``: past and current runs, from the controller's history. The controller need not be running."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgenode.cli.fitted_table import plain_table
from edgenode.cli.shared_options import as_name, json_option, node_option
from edgenode.errors import ConfigError
from edgenode.observability import plotting
from edgenode.observability.status_view import figure, size
from edgenode.storage.audit_log import AuditLog
from edgenode.storage.filesystem import default_state_dir
from edgenode.storage.run_history import RunHistory

_SUMMED = ("payload_bytes", "dense_bytes", "received_bytes")
state_option = node_option("state_dir", help="State folder of the controller. [default: the user's state folder]")
cluster_option = click.option(
    "--cluster", default="edgenode", callback=as_name, show_default=True, envvar="EDGENODE_CLUSTER",
    help="Cluster whose state folder to read, without --state-dir.",
)  # fmt: skip
out_option = click.option(
    "--out", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="File to write."
)


@click.group()
def runs() -> None:
    """List, show, export and plot the past and current runs of this machine's controller.

    RUN is a number from the list, or "last".

    \b
    Examples:
      edgenode runs list
      edgenode runs show last
      edgenode runs export 3 --format csv --out run-3.csv
      edgenode runs plot last --out accuracy.png
      edgenode runs audit
    """


@runs.command("list")
@state_option
@cluster_option
@json_option
def list_runs(state_dir: Path | None, cluster: str, as_json: bool) -> None:
    """List all recorded runs, oldest first.

    \b
    Examples:
      edgenode runs list
      edgenode runs list --cluster office --json
    """
    history = _history(state_dir, cluster)
    found = history.runs()
    if as_json:
        click.echo(json.dumps(found))
    elif not found:
        click.echo(_nothing(history))
    else:
        headings = ("run", "began", "took", "nodes", "rounds", "algorithm", "compressor", "outcome")
        Console().print(plain_table(headings, map(_run_row, found), box=None))


@runs.command()
@click.argument("run", default="last")
@state_option
@cluster_option
@json_option
def show(run: str, state_dir: Path | None, cluster: str, as_json: bool) -> None:
    """Show one run.

    Prints its outcome, the last known figures of every node, what happened, and its configuration.

    \b
    Examples:
      edgenode runs show
      edgenode runs show 3 --json
    """
    history = _history(state_dir, cluster)
    found = _run(history, run)
    last, events = history.last(found["id"]), history.events(found["id"])
    if as_json:
        click.echo(json.dumps({**found, "nodes": list(last.values()), "events": events}))
        return
    outcome = found["outcome"] or "not ended"
    click.echo(f"run {found['id']} of {found['cluster']}: {outcome}, began {_when(found['began'])}, {_took(found)}")
    console = Console()
    console.print(_nodes_table(last))
    if events:
        console.print(_events_table(events))
    click.echo(f"run.toml:\n\n{found['config']}", nl=False)


@runs.command()
@state_option
@cluster_option
@json_option
def audit(state_dir: Path | None, cluster: str, as_json: bool) -> None:
    """Show what operators requested of this controller, oldest first: who, when, what, and the outcome.

    \b
    Examples:
      edgenode runs audit
      edgenode runs audit --json | jq '.[] | select(.who == "operator anna")'
    """
    found = AuditLog(_history(state_dir, cluster).path.parent).entries()
    if as_json:
        click.echo(json.dumps(found))
        return
    rows = [
        (Text(_when(e["at"], seconds=True)), Text(e["who"]), Text(e["request"]), Text(e["outcome"] or "not known"))
        for e in found
    ]
    table = plain_table(("time", "who", "request", "outcome"), rows, box=None)
    Console().print(table if found else "no operator has requested anything yet")


def _run_row(run: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(run["id"]), _when(run["began"]), _took(run), str(run["nodes"]), str(run["rounds"]), run["algorithm"],
        run["compressor"], run["outcome"] or "not ended",
    )  # fmt: skip


def _nodes_table(last: dict[str, dict[str, Any]]) -> Table:
    headings = ("node", "round", "accuracy", "loss", "u", "sent", "uncompressed", "received")
    figures = {"round": "d", "accuracy": ".1%", "loss": ".3f", "u": ".3f"}
    rows: list[list[str | Text]] = [
        [
            Text(node),
            *(figure(sample[name], form) for name, form in figures.items()),
            *(size(sample[name]) for name in _SUMMED),
        ]
        for node, sample in sorted(last.items())
    ]
    table = plain_table(headings, rows, right=headings[1:])
    if len(last) > 1:
        table.add_section()
        table.add_row("all", "", "", "", "", *(size(sum(node[name] for node in last.values())) for name in _SUMMED))
    return table


def _events_table(events: list[dict[str, Any]]) -> Table:
    rows: list[tuple[str | Text, ...]] = [
        (_when(e["at"], seconds=True), str(e["round"]), e["kind"], Text(e["text"])) for e in events
    ]
    headings = ("time", "round", "event", "")
    return plain_table(headings, rows, right=("round",), box=None, title="events", title_justify="left")


@runs.command()
@click.argument("run", default="last")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True,
              help="One row or one object per node and moment.")  # fmt: skip
@out_option
@state_option
@cluster_option
def export(run: str, form: str, out: Path | None, state_dir: Path | None, cluster: str) -> None:
    """Export all samples of a run.

    Writes to standard output unless --out names a file.

    \b
    Examples:
      edgenode runs export last > run.csv
      edgenode runs export 3 --format json --out run-3.json
    """
    history = _history(state_dir, cluster)
    samples = history.samples(_run(history, run)["id"])
    if form == "json":
        text = json.dumps([{**s, "metrics": json.loads(s["metrics"] or "{}")} for s in samples]) + "\n"
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, samples[0] if samples else ["at_s"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(samples)
        text = buffer.getvalue()
    if out is None or str(out) == "-":
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")


@runs.command()
@click.argument("run", default="last")
@out_option
@state_option
@cluster_option
def plot(run: str, out: Path | None, state_dir: Path | None, cluster: str) -> None:
    """Plot accuracy against bytes sent.

    Shows the bytes of all nodes, as sent and uncompressed. The suffix of --out gives the format. Needs edgenode[plots].

    \b
    Examples:
      edgenode runs plot
      edgenode runs plot 3 --out run-3.svg
    """
    if not plotting.available():
        raise ConfigError(f"cannot plot: {plotting.NOT_INSTALLED}")
    history = _history(state_dir, cluster)
    found = _run(history, run)
    curve = [point for point in history.curve(found["id"]) if point["accuracy"] is not None and point["payload_bytes"]]
    if not curve:
        raise ConfigError(f"run {found['id']} has no measured accuracy to plot yet")
    out = out or Path(f"run-{found['id']}.png")
    label = f"{found['algorithm'].upper()}, {found['compressor']}"
    sent, dense, accuracy = ([point[name] for point in curve] for name in ("payload_bytes", "dense_bytes", "accuracy"))
    plotting.plot_accuracy(out, sent, dense, accuracy, label, "all nodes")
    click.echo(f"written: {out}")


def _history(state_dir: Path | None, cluster: str) -> RunHistory:
    return RunHistory(state_dir or default_state_dir(cluster, "controller"))


def _nothing(history: RunHistory) -> str:
    """Return why there are no runs, and where else they can be."""
    return (
        f"no runs in {history.path} on this machine; a run is recorded on the machine of its controller, in the "
        "controller's --state-dir: run this command there, with the controller's --cluster or --state-dir"
    )


def _run(history: RunHistory, which: str) -> dict[str, Any]:
    found = history.runs()
    if not found:
        raise ConfigError(_nothing(history))
    run = found[-1] if which == "last" else next((r for r in found if str(r["id"]) == which), None)
    if run is None:
        raise ConfigError(f"no run {which}: choose one from {found[0]['id']} to {found[-1]['id']}, or last")
    return run


def _when(at: float, seconds: bool = False) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime(f"%Y-%m-%d %H:%M{':%S' if seconds else ''}")


def _took(run: dict[str, Any]) -> str:
    """The time that the run was recorded: without the time between a stop and its resume."""
    if run["ran_s"] is None:
        return "-"
    seconds = round(run["ran_s"])
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
