"""``edgenode simulate``: a whole run in one process, bit-identical to the same run on devices."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edgenode.cli.shared_options import (
    config_option,
    json_option,
    load_config,
    set_option,
    take_sigterm_as_ctrl_c,
    warn,
)
from edgenode.config.schema import Config
from edgenode.core.wording import listed
from edgenode.node.resources import keep_freed_memory
from edgenode.observability.status_view import less_than_uncompressed, size
from edgenode.storage import result_file

if TYPE_CHECKING:
    from edgenode.simulate.simulation import Simulation


@click.command()
@config_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for checkpoints and results. [default: nothing is saved]")  # fmt: skip
@click.option("--fresh", is_flag=True, envvar="EDGENODE_FRESH",
              help="Discard the checkpoints in --out instead of resuming from them.")  # fmt: skip
@set_option
@json_option
def simulate(config_path: Path | None, out: Path | None, fresh: bool, settings: tuple[str, ...], as_json: bool) -> None:
    """Simulate the run that a run.toml describes: all nodes in this process, without a network.

    The result is bit-identical to that of a second simulation, and of `edgenode run` on devices named node-0, node-1,
    ... Without a run.toml, every key has its default. --json prints the content of result.json.

    \b
    Examples:
      edgenode simulate --set run.rounds=200
      edgenode simulate --set run.nodes=64 --set task.skew=1 --json > result.json
      edgenode simulate --config run.toml --out runs/one              the same command resumes it
    """
    config = load_config(config_path, settings)
    if fresh and out is not None:
        for folder in out.glob("node-*/checkpoints"):
            shutil.rmtree(folder)
    take_sigterm_as_ctrl_c()
    keep_freed_memory()
    result = _simulate(config, out)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(result, out)


def _simulate(config: Config, out: Path | None) -> dict[str, Any]:
    from edgenode.simulate.simulation import Simulation

    simulation: Simulation | None = None
    try:
        with _progress() as show:
            simulation = Simulation(config, out)
            for reason in simulation.damage:
                warn(f"skipping a checkpoint: {reason}")
            for warning in simulation.warnings:
                warn(warning)
            if simulation.round:
                click.echo(f"resuming from round {simulation.round} of {simulation.rounds}, saved in {out}", err=True)
            result = simulation.run(show(simulation))
    except KeyboardInterrupt:
        where = "nothing is saved without --out DIR" if out is None else f"the same command resumes from {out}"
        done = f"{simulation.round} of {simulation.rounds}" if simulation else "no"
        click.echo(f"edgenode: {done} rounds done; {where}", err=True)
        raise
    for node, alarm in simulation.alarms:
        warn(f"poison alarm at {node}: {alarm.member or 'unknown'} in round {alarm.round}: {alarm.reason}")
    if refusals := {node["node"]: node["refusal"] for node in result["nodes"] if node["refusal"]}:
        names, why = listed(list(refusals)), next(iter(refusals.values()))
        warn(f"the average of the last phase is refused: {names} keep their own models. The first one: {why}")
    if reason := result_file.no_gain(simulation.before_average, result["mean_test_accuracy"]):
        warn(reason)
    return result


@contextmanager
def _progress() -> Iterator[Callable[[Simulation], Callable[[], None]]]:
    """Yields a function that takes the simulation and returns what to call after each round.

    That shows a progress bar on a terminal, else a line per epoch.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines
        return
    # narrow enough for 80 columns
    columns = ("{task.description}", BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn(), "left")
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=console, speed_estimate_period=600) as bar:
        task = bar.add_task("loading", total=None, state="")

        def show(simulation: Simulation) -> Callable[[], None]:
            bar.update(task, description="round", total=simulation.rounds, completed=simulation.round)
            return lambda: bar.update(task, completed=simulation.round, state=_state(simulation))

        yield show


def _lines(simulation: Simulation) -> Callable[[], None]:
    began, first = time.monotonic(), simulation.round

    def line() -> None:
        if simulation.round % simulation.epoch_rounds:
            return
        left_s = (time.monotonic() - began) / (simulation.round - first) * (simulation.rounds - simulation.round)
        done = f"round {simulation.round} of {simulation.rounds}"
        click.echo(f"{done}, {left_s:.0f} s left, {_state(simulation)}", err=True)

    return line


def _state(simulation: Simulation) -> str:
    loss = "" if simulation.loss is None else f"loss {simulation.loss:.4f}"
    accuracy = "" if simulation.accuracy is None else f"accuracy {simulation.accuracy:.2%}"
    return ", ".join(filter(None, (loss, accuracy)))


def _print(result: dict[str, Any], out: Path | None) -> None:
    nodes = result["nodes"]
    accuracies = [node["test_accuracy"] for node in nodes if node["test_accuracy"] is not None]
    if accuracies:
        kind = "validation" if result["config"]["task"]["validation"] else "test"
        click.echo(
            f"{kind} accuracy {result['mean_test_accuracy']:.2%} (mean of {len(accuracies)} nodes; "
            f"{min(accuracies):.2%} to {max(accuracies):.2%})"
        )
    if result["mean_metrics"]:
        means = ", ".join(f"{name} {value:.4g}" for name, value in result["mean_metrics"].items())
        click.echo(f"{means} (mean of the nodes)")
    sent, factor = sum(node["payload_bytes"] for node in nodes), result["compression_factor"]
    fewer = f", {less_than_uncompressed(factor)}" if factor else ""
    click.echo(
        f"parameter divergence {result['parameter_divergence_l2']:.3g} (mean L2 distance from their mean)\n"
        f"sent {size(sent // len(nodes))} per node{fewer}\n"
        f"{nodes[0]['rounds']} rounds, {result['wall_s']:.1f} s"
    )
    if out is not None:
        click.echo(f"result.json and a model.safetensors per node are in {out}")
