"""``edgenode experiment``: a table or a figure of the paper, from one command."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from edgenode.cli.shared_options import node_option, overrides, set_option, take_sigterm_as_ctrl_c
from edgenode.errors import ConfigError
from edgenode.storage.filesystem import write_atomically

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgenode_lab.experiments.definitions import Experiment, Outcome
    from edgenode_lab.experiments.runner import OutcomeStore, Reports, Trial
    from edgenode_lab.experiments.scales import Scale


def _checked_seeds(_ctx: click.Context, _param: click.Parameter, text: str) -> range:
    """``3`` is 0, 1, 2, and ``3-5`` is 3, 4, 5."""
    first, dash, last = text.partition("-") if "-" in text else ("0", "", text)
    if first.isdecimal() and last.isdecimal() and (seeds := range(int(first), int(last) + bool(dash))):
        return seeds
    raise ConfigError(f"--seeds {text}: expected a number of seeds, as in 3, or the first and the last, as in 3-5")


def _checked_place(_ctx: click.Context, _param: click.Parameter, place: str) -> str:
    from edgenode.addresses import split_address

    kind, colon, address = place.partition(":")
    if place and kind != "ray":
        raise ConfigError(f"--on {place}: expected ray or ray:HOST:PORT")
    if colon:
        split_address(address)
    return place


@click.command()
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--scale", "scale_name", type=click.Choice(["smoke", "small", "paper"]),
              help="smoke: minutes on Fashion-MNIST. small: an hour or two on CIFAR-10. paper: the paper's whole "
                   "schedule. [default: smoke]")  # fmt: skip
@click.option("--seeds", default="1", metavar="N|A-B", show_default=True, callback=_checked_seeds,
              help="N: the seeds 0 to N-1. A-B: the seeds A to B. Finished seeds are kept if you ask for others "
                   "later.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1),
              help="Shorten the schedule of small or paper to this many epochs.")  # fmt: skip
@set_option
@click.option("--validate", is_flag=True,
              help="Evaluate on a fifth of the training data, to choose settings without a look at the test data. The "
                   "same as --set task.validation=0.2.")  # fmt: skip
@click.option("--curves", type=click.IntRange(min=1), metavar="N",
              help="Measure every node each N rounds, and draw learning curves.")  # fmt: skip
@node_option("track", help="Log what --curves measures to tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT, when a "
                           "run ends.")  # fmt: skip
@click.option("--only", multiple=True, metavar="TEXT",
              help="Measure only runs with TEXT in a label, network or name, and leave the other rows as they are. If "
                   "repeated, all TEXTs must occur.")  # fmt: skip
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("experiments"), show_default=True,
              help="Folder for the results.")  # fmt: skip
@click.option("--data-dir", type=click.Path(path_type=Path),
              help="Folder of the data: CIFAR in torchvision's layout or as train/CLASS/*.jpg and test/CLASS/*.jpg, "
                   "for smoke Fashion-MNIST. [default: Debian's /usr/share/datasets/fashion-mnist]")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu", show_default=True,
              help="Device that the nodes train on.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1),
              help="Number of parallel runs. [default: one per core, 1 with cuda or mps; with --on as many as the "
                   "cluster has room for]")  # fmt: skip
@click.option("--on", "place", default="", metavar="ray[:HOST:PORT]", callback=_checked_place,
              help="Run on a Ray cluster instead of processes of this machine. Needs edgenode-lab[ray].")  # fmt: skip
def experiment(
    name: str | None, scale_name: Any, seeds: range, epochs: int | None,
    settings: tuple[str, ...], validate: bool, curves: int | None, only: tuple[str, ...], out: Path,
    data_dir: Path | None, device: str, jobs: int | None, place: str, track: str,
) -> None:  # fmt: skip
    """Reproduce a table or a figure of the paper, with the paper's numbers next to ours.

    Writes NAME.md, NAME.csv, NAME.tex, NAME.png, NAME.pdf and configs/NAME/*.toml (for `edgenode simulate`) into --out.
    Figures need edgenode[plots]. Finished runs are saved and shared between experiments. If interrupted, the same
    command resumes. Without NAME, lists all experiments. FILE, which ends in .toml, is an experiment of your own: a
    run.toml with rows.

    \b
    Examples:
      edgenode experiment                                                  list all experiments
      edgenode experiment table4 --seeds 3                                 minutes, on Fashion-MNIST
      edgenode experiment table4 --set task.skew=0.8                       the same table under skew
      edgenode experiment frontier --validate --seeds 100-102              to choose settings
      edgenode experiment table2 --scale small --data-dir ~/cifar10        an hour or two
      edgenode experiment table2 --scale paper --data-dir ~/cifar10 --device cuda
      edgenode experiment table4 --seeds 3-5 --on ray:10.0.0.5:6379        on a Ray cluster
      edgenode experiment mine.toml                                        an experiment of your own
      edgenode experiment table4 --curves 10                               with learning curves
    """
    from edgenode_lab.experiments import reader, static_tables
    from edgenode_lab.experiments.catalogue import EXPERIMENTS
    from edgenode_lab.experiments.scales import choose_scale
    from edgenode_lab.privacy import experiment as privacy

    titles = _titles()
    if name is None:
        click.echo("\n".join(f"{known:8}  {title}" for known, title in titles.items()))
        return
    if name == privacy.NAME:
        others = (scale_name, epochs, validate, curves, track, data_dir, device, jobs, place, seeds)
        _measure_leaks(settings, only, out, *others)
        return
    if name.endswith(".toml"):
        chosen, command = reader.read(Path(name)), shlex.quote(name)
        scaled = any(row.network for row in chosen.rows(choose_scale("smoke")))
        if not scaled and (scale_name or epochs or data_dir):
            raise ConfigError(f"leave out --scale, --epochs and --data-dir: {name} has all keys of its runs")
    elif name in static_tables.TABLES:
        table = static_tables.TABLES[name]
        _warn_if_not_drawn(name, table.draw is not None)
        static_tables.write(table, out)
        _show(name, out)
        return
    elif name not in EXPERIMENTS:
        raise ConfigError(f"no experiment {name!r}: choose one of {', '.join(titles)}")
    else:
        chosen, command, scaled = EXPERIMENTS[name], name, True
    command += f" --scale {scale_name or 'smoke'}" if scaled else ""
    command += f" --seeds {f'{seeds[0]}-{seeds[-1]}' if seeds[0] else len(seeds)}"
    command += f" --epochs {epochs}" * bool(epochs) + f" --curves {curves}" * bool(curves)
    settings += ("task.validation=0.2",) * validate
    scale = choose_scale(scale_name or "smoke", data_dir, epochs)
    if curves:
        chosen = replace(chosen, curves=structs.replace(chosen.curves, every=curves))
    _play(chosen, scale, f"edgenode experiment {command}", seeds, settings, only, out, device, jobs, place, track)


def _titles() -> dict[str, str]:
    """All experiments by name, and what they are."""
    from edgenode_lab.experiments import labels, static_tables
    from edgenode_lab.experiments.catalogue import EXPERIMENTS
    from edgenode_lab.privacy import experiment as privacy

    titles = {e.name: labels.paper_title(e) for e in EXPERIMENTS.values()}
    return titles | {t.name: t.title for t in static_tables.TABLES.values()} | {privacy.NAME: privacy.TITLE}


def _measure_leaks(settings: tuple[str, ...], only: tuple[str, ...], out: Path, *others: object) -> None:
    """Attack runs, and show what they tell of training samples. Refuses all other options."""
    from edgenode_lab.privacy import experiment as privacy

    if any(other not in (None, False, "", "cpu", range(1)) for other in others):
        raise ConfigError(f"{privacy.NAME} takes no options but --set, --only and --out")
    words = [word for option, texts in (("--set", settings), ("--only", only)) for t in texts for word in (option, t)]
    command = shlex.join(["edgenode", "experiment", privacy.NAME, *words])
    take_sigterm_as_ctrl_c()
    out.mkdir(parents=True, exist_ok=True)
    privacy.measure(out, command, overrides(settings), only, lambda line: click.echo(line, err=True))
    _show(privacy.NAME, out)


def _play(
    chosen: Experiment, scale: Scale, command: str, seeds: range, settings: tuple[str, ...], only: tuple[str, ...],
    out: Path, device: str, jobs: int | None, place: str, track: str,
) -> None:  # fmt: skip
    """Run what has no outcome yet of an experiment, write its files, and show the table."""
    from edgenode.factory import cores
    from edgenode_lab.experiments import curves, feasible, latex, parallel, ray_tasks, report, runner, tracked

    name = chosen.name
    if track and not chosen.curves.every:
        raise ConfigError("--track needs --curves N, the rounds between two measurements")
    if settings:
        chosen = replace(chosen, expected="")  # of other runs
    _warn_if_not_drawn(name, True)
    rows = runner.rows_as_run(chosen, scale, overrides(settings))
    runs = runner.trials(rows, seeds, device)
    wanted = [trial for trial in runs if all(map(trial.matches, only))]
    if not wanted:
        raise ConfigError(f"no run of {name} matches {' and '.join(only)}; an example is {runs[0].name}")
    feasible.check_rows(wanted)
    outcomes = runner.OutcomeStore(out, chosen.curves.every)
    tracking = tracked.CurveTracking(track, outcomes, out, _warn) if track else None
    runner.write_configs(runs, out / "configs" / name)
    command += "".join(f" --set {setting}" for setting in settings)
    heading = report.Heading.of(chosen, runs, command, settings)

    def run(todo: Sequence[Trial]) -> Reports:
        if place:
            return ray_tasks.run_trials(todo, outcomes, place.removeprefix("ray").removeprefix(":"), jobs)
        return parallel.run_trials(todo, outcomes, jobs or (cores() if device == "cpu" else 1))

    def write() -> None:
        results = report.collect(rows, runs, outcomes)
        report.write(chosen, heading, results, out)
        text = latex.table(chosen, heading, results, [trial.config for trial in runs])
        write_atomically(out / f"{name}.tex", text)
        if chosen.curves.every:
            curves.write(chosen, curves.collect(rows, runs, outcomes), out)
        if tracking:
            tracking.add(wanted)

    if other := report.other_command(chosen, heading, out):
        click.echo(f"edgenode: warning: the first finished run replaces {out / name}.md, .csv and .png, which "
                   f"{other!r} wrote; choose another --out to keep them", err=True)  # fmt: skip
    take_sigterm_as_ctrl_c()
    try:
        _measure(wanted, outcomes, run, write)
    except KeyboardInterrupt:
        click.echo(f"edgenode: finished runs are saved; the same command resumes from {out}", err=True)
        raise
    _show(name, out)


def _warn(text: str) -> None:
    click.echo(f"edgenode: warning: {text}", err=True)


def _show(name: str, out: Path) -> None:
    click.echo((out / f"{name}.md").read_text(encoding="utf-8").rstrip())


def _warn_if_not_drawn(name: str, has_figure: bool) -> None:
    from edgenode.observability import plotting

    if has_figure and not plotting.available():
        click.echo(f"edgenode: warning: {name}.png is not drawn: {plotting.NOT_INSTALLED}", err=True)


def _measure(
    runs: Sequence[Trial], outcomes: OutcomeStore, run: Callable[[Sequence[Trial]], Reports], write: Callable[[], None]
) -> None:
    """Simulate the runs that have no outcome yet, each once, and rewrite the report after each.

    The report is not written before: without a finished run, it would only replace what another command measured.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    todo = list({trial.digest: trial for trial in runs if not outcomes.is_done(trial)}.values())
    if not todo:
        write()
        return
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(12), TaskProgressColumn(), TimeRemainingColumn(), "left")
    bar = Progress(*columns, console=console, speed_estimate_period=3600) if console.is_terminal else None
    with bar or nullcontext(), closing(run(todo)) as messages:
        work = _Work(todo, bar)
        for trial, message in messages:
            if isinstance(message, int):
                work.at(trial, message)
            else:
                work.end(trial, message)
                write()


class _Work:
    """Shows how much of the work is done, in local steps: a bar on a terminal, and a line per run."""

    def __init__(self, todo: Sequence[Trial], bar: Progress | None) -> None:
        self._runs, self._total = len(todo), sum(map(_steps, todo))
        self._steps: dict[str, int] = {}  # of each run that has begun
        self._ended = self._resumed = 0
        self._began = time.monotonic()
        self._bar = bar
        self._task = bar.add_task("loading", total=self._total) if bar else None

    def at(self, trial: Trial, t: int) -> None:
        """A run has completed round t. Its first message is from where it begins or resumes."""
        steps = trial.config.run.nodes * t
        began = trial.digest not in self._steps
        self._resumed += steps if began else 0
        self._steps[trial.digest] = steps
        if self._bar and self._task is not None:
            description = f"{len(self._steps)}/{self._runs} {trial.name}" if began else None
            self._bar.update(self._task, description=description, completed=sum(self._steps.values()))

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """A run is done."""
        self._ended += 1
        self._steps[trial.digest] = _steps(trial)
        done = sum(self._steps.values())
        left_s = (time.monotonic() - self._began) / max(1, done - self._resumed) * (self._total - done)
        line = f"{self._ended} of {self._runs}, {trial.name}: {_described(outcome)}; {_duration(left_s)} left"
        if self._bar:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)


def _steps(trial: Trial) -> int:
    return trial.config.run.nodes * trial.config.run.rounds


def _described(outcome: Outcome) -> str:
    if "error" in outcome:
        return str(outcome["error"])
    before = outcome.get("before_gossip")
    sp = f" ({before['mean_test_accuracy']:.2%} before the gossip)" if before else ""
    return f"{outcome['mean_test_accuracy']:.2%}{sp}, {outcome['wall_s']:.0f} s"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
