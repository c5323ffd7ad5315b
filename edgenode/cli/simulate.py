"""``edgenode simulate``: a whole run without a network, bit-identical to the same run on devices."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenode.cli.script_processes import ScriptProcesses
from edgenode.cli.scripts import Script, environ_of_run, module_option, script_of
from edgenode.cli.shared_options import (
    config_option,
    json_option,
    load_config,
    node_names,
    node_option,
    set_option,
    take_sigterm_as_ctrl_c,
    warn,
)
from edgenode.cli.simulation_progress import shown
from edgenode.config.schema import Config
from edgenode.core.wording import listed
from edgenode.node.remote_trainer import End, ScriptEnded
from edgenode.node.resources import keep_freed_memory
from edgenode.observability.status_view import less_than_uncompressed, size
from edgenode.observability.tracking import open_tracker, track_row
from edgenode.storage import result_file
from edgenode.storage.result_file import NodeResult

if TYPE_CHECKING:
    from edgenode.simulate.history import History
    from edgenode.simulate.progress import Progress
    from edgenode.simulate.simulation import Simulation

MakesHistory = Callable[[], "History | None"]


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--nodes", type=click.IntRange(1), help="Number of nodes. [default: run.nodes of run.toml]")
@config_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for checkpoints and results. [default: nothing is saved]")  # fmt: skip
@click.option("--fresh", is_flag=True, envvar="EDGENODE_FRESH",
              help="Discard the checkpoints in --out instead of resuming from them.")  # fmt: skip
@click.option("--history", "every", type=click.IntRange(1), metavar="N",
              help="Measure every node each N rounds, into history.jsonl and history.csv in --out.")  # fmt: skip
@node_option("track", help="Log what --history measures to tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT.")
@set_option
@json_option
@module_option
@click.argument("script", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(
    nodes: int | None,
    config_path: Path | None,
    out: Path | None,
    fresh: bool,
    every: int | None,
    track: str,
    settings: tuple[str, ...],
    as_json: bool,
    module: bool,
    script: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Simulate the run that a run.toml describes, without a network.

    The result is bit-identical to that of a second simulation, and of `edgenode run` on devices named node-0, node-1,
    ... Without a run.toml, every key has its default. --json prints the content of result.json.

    A SCRIPT with an edgenode.Mesh runs as a process for each node, as with `edgenode launch`, and with the same bits.
    In ARGUMENTS, {index}, {nodes} and {name} are replaced. Its output goes to standard error.

    \b
    Examples:
      edgenode simulate --set run.rounds=200
      edgenode simulate --set run.nodes=64 --set task.skew=1 --json > result.json
      edgenode simulate --config run.toml --out runs/one              the same command resumes it
      edgenode simulate --out runs/one --history 10                   learning curves for pandas
      edgenode simulate --nodes 4 train.py -- --part {index}/{nodes}  a training loop of your own
    """
    settings = (*settings, *((f"run.nodes={nodes}",) if nodes else ()))
    config = load_config(config_path, settings)
    if module and script is None:
        raise click.UsageError("-m needs the name of a module")
    if every and out is None:
        raise click.UsageError("--history needs --out DIR, where it writes history.jsonl and history.csv")
    if track and not every:
        raise click.UsageError("--track needs --history N, the rounds between two measurements")
    program = script_of(script, module, arguments) if script is not None else None
    if fresh and out is not None:
        for folder in out.glob("node-*/checkpoints"):
            shutil.rmtree(folder)
    take_sigterm_as_ctrl_c()
    keep_freed_memory()
    with _tracked(track, config, out) as follow:

        def history() -> History | None:
            from edgenode.simulate.history import History

            return History(every, out, follow) if every else None

        if program is None:
            result = _simulate_task(config, out, history)
        else:
            result = _simulate_script(program, config, environ_of_run(config_path, settings), out, history)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        _print(result, out)


@contextmanager
def _tracked(target: str, config: Config, out: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """Yield what takes the rows of the history for a tracker. None without a tracker."""
    if not target:
        yield None
        return
    tracker, ended_well = open_tracker(target, config, out or Path(), {}), False
    try:
        yield lambda row: track_row(tracker, row)
        ended_well = True
    finally:
        tracker.close(ended_well)


def _simulate_task(config: Config, out: Path | None, history: MakesHistory) -> dict[str, Any]:
    def make(progress: Progress) -> Simulation:
        from edgenode.simulate.simulation import Simulation

        return Simulation(config, out, history=history(), progress=progress)

    return _simulate(make, out)


def _simulate_script(
    script: Script, config: Config, environ: Mapping[str, str], out: Path | None, history: MakesHistory
) -> dict[str, Any]:
    """Simulate a script. The processes of the nodes return from here as SystemExit."""
    state = Path(tempfile.mkdtemp(prefix="edgenode-")) if out is None else out.resolve()
    processes = ScriptProcesses(script, node_names(config.run.nodes), environ, state)
    try:
        with processes:
            return _simulate_nodes(processes, out, history)
    finally:
        if out is None:
            shutil.rmtree(state, ignore_errors=True)


def _simulate_nodes(processes: ScriptProcesses, out: Path | None, history: MakesHistory) -> dict[str, Any]:
    from edgenode.simulate.nodes import script_nodes
    from edgenode.simulate.simulation import Simulation

    try:
        config, nodes = script_nodes(processes.pipes)
        result = _simulate(lambda progress: Simulation(config, out, nodes, history(), progress=progress), out)
        for row in result["nodes"]:
            own = result_file.summary(config, [NodeResult(**row)], result["wall_s"])
            nodes[row["node"]].pipe.send(End(own))
    except ScriptEnded as exc:
        raise processes.failure(exc.node) from None
    processes.wait()
    return result


def _simulate(make: Callable[[Progress], Simulation], out: Path | None) -> dict[str, Any]:
    from edgenode.simulate.progress import Progress

    simulation: Simulation | None = None
    progress = Progress()
    try:
        with shown(progress) as show:
            simulation = make(progress)
            for reason in simulation.damage:
                warn(f"skipping a checkpoint: {reason}")
            for warning in simulation.warnings:
                warn(warning)
            for line in _counts(simulation.parameter_counts):
                click.echo(line, err=True)
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


def _counts(of_nodes: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """Say how many parameters are shared and how many are local, in a line for all nodes with the same counts."""
    for shared, own in dict.fromkeys(of_nodes.values()):
        names = listed([name for name, counts in of_nodes.items() if counts == (shared, own)])
        yield f"{names}: shared_parameters={shared} local_parameters={own}"


def _print(result: dict[str, Any], out: Path | None) -> None:
    nodes = result["nodes"]
    accuracies = [node["test_accuracy"] for node in nodes if node["test_accuracy"] is not None]
    if accuracies:
        tested = f"{len(accuracies)} nodes" + (f" of {len(nodes):,}" if len(accuracies) < len(nodes) else "")
        kind = "validation" if result["config"]["task"]["validation"] else "test"
        click.echo(
            f"{kind} accuracy {result['mean_test_accuracy']:.2%} (mean of {tested}; "
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
