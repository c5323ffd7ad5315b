"""Runs the trials of an experiment and keeps the outcome of each on disk.

An outcome is found by its trial's configuration, so experiments share trials. The same command started again skips the
trials that have an outcome, and resumes an interrupted trial from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from edgenode.config.load import load
from edgenode.config.schema import KEYS, LOCAL_KEYS, Config
from edgenode.errors import CheckpointError, ConfigError, EdgenodeError
from edgenode.storage.filesystem import write_atomically
from edgenode_lab.experiments import labels
from edgenode_lab.experiments.definitions import Experiment, Outcome, Row
from edgenode_lab.experiments.scales import Scale, Settings, graph_period

if TYPE_CHECKING:
    from edgenode.simulate.history import History
    from edgenode.simulate.history import Row as HistoryRow
    from edgenode.simulate.simulation import Simulation

FIXED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "run.seed": "use --seeds instead",
        "run.device": "use --device instead",
        "run.evaluate_every": "each run is evaluated where its gossip begins",
        "algorithm.name": "the rows choose the algorithm",
    }
)
_CHECKPOINTS_PER_TRIAL = 20  # each one flushes every node's state to disk
_WATCHED_EVERY = 10  # rounds: often enough for a node to notice that its accuracy collapses
_REPORT_EVERY_S = 0.2
_BLOCK = 1 << 16  # bytes, more than an outcome has

Watch = Callable[["Simulation"], Callable[[], None]]
"""Given a trial's simulation, returns the function to call after each of its rounds."""

Reports = Generator[tuple["Trial", "int | Outcome"]]
"""What trials report while they run: rounds done, the first being where the trial resumes, then the outcome, which is
on disk. Closing it ends the trials that are not done."""


def name_of(row: Row, *words: str) -> str:
    """The labels of a row and further words, fit for a file name."""
    return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in (*row.labels, *words))


@dataclass(frozen=True)
class Trial:
    """One run of an experiment: a row of its table with one seed."""

    row: Row
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The row's labels and the seed, fit for a file name."""
        return name_of(self.row, f"seed {self.seed}")

    def matches(self, text: str) -> bool:
        """Whether a text is in the trial's name, in its row or in the name of its network, as reports show them."""
        return any(text in words for words in (self.name, *self.row.labels, labels.network(self.config, self.row)))

    @property
    def digest(self) -> str:
        """Of what tells trials apart."""
        return _digest(self.config.as_keys())


def _digest(keys: Mapping[str, object]) -> str:
    """Of the keys that differ from their defaults, so that outcomes stay valid when edgenode gains a key.

    The data of every trial is cut, so `task.data` does not tell trials apart.
    """
    known = {k: v for k, v in keys.items() if k in KEYS and k not in {*LOCAL_KEYS, "task.data"}}
    changed = {k: v for k, v in known.items() if _plain(v) != _plain(KEYS[k].default)}
    return sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def rows_as_run(experiment: Experiment, scale: Scale, overrides: Settings = MappingProxyType({})) -> list[Row]:
    """The rows of an experiment with ``overrides`` over their settings, labelled by what then runs.

    Rows that ``overrides`` makes equal appear once. With overrides, no row has the paper's numbers: they are of runs
    without them.

    Raises:
        ConfigError: an override is not possible, or not valid.
    """
    for key, why in FIXED_KEYS.items():
        if key in overrides:
            raise ConfigError(f"{key} cannot be set for an experiment: {why}")
    rows: list[Row] = []
    for written in experiment.rows(scale):
        row = replace(written, paper={}) if overrides else written
        if row.settings is not None:
            settings = {**row.settings, **overrides}
            row = replace(labels.shown(experiment.labels, row, config_of(row, settings)), settings=settings)
        if row not in rows:
            rows.append(row)
    return rows


def trials(rows: Sequence[Row], seeds: Iterable[int], device: str = "cpu") -> list[Trial]:
    """Every trial of these rows, seed by seed, so that a whole table with one seed is complete early.

    Raises:
        ConfigError: a row is not a valid configuration.
    """
    return [
        Trial(row, seed, config_of(row, {**row.settings, "run.seed": seed, "run.device": device}))
        for seed in seeds
        for row in rows
        if row.settings
    ]


def config_of(row: Row, settings: Settings) -> Config:
    """The configuration of a trial. What follows from the number of rounds comes last, as --set may change it."""
    config = load(None, settings, environ={})
    rounds = config.run.rounds
    derived: dict[str, object] = {
        "run.threads": 1,
        "run.checkpoint_every": max(1, rounds // _CHECKPOINTS_PER_TRIAL),
        # SP is measured where the gossip of SCSP begins
        "run.evaluate_every": {"scsp": rounds, "attacked": _WATCHED_EVERY}.get(config.algorithm.name, 0),
    }
    if row.epochs_per_graph:
        derived["topology.every"] = graph_period(row.epochs_per_graph, rounds)
    return load(None, {**derived, **settings}, environ={})


class OutcomeStore:
    """The outcomes of trials: one file, with a line of JSON for each.

    An outcome is found by the configuration in it, so it stays valid when edgenode gains a key, and a default that
    changes does not make one trial of another. Workers append to the file, each under its lock, and a line without its
    end is what an interrupted worker has left: nobody reads it, and the next line takes its place.
    """

    def __init__(self, folder: Path, every: int = 0) -> None:
        self.every, self._folder, self._file = every, folder, folder / "outcomes.jsonl"
        self._known: dict[str, Outcome] = {}  # by the digest of the trial
        self._read_to = 0  # a position in the file
        self._lines = 0

    def _checkpoints(self, trial: Trial) -> Path:
        return self._folder / "checkpoints" / trial.config.digest(rounds=True)[:16]

    def get(self, trial: Trial) -> Outcome | None:
        """The outcome of a trial, or None if the trial has not been run.

        Raises:
            CheckpointError: the file is damaged.
        """
        self._read_new()
        return self._known.get(trial.digest)

    def is_done(self, trial: Trial) -> bool:
        """Whether a trial has an outcome, and a history if one is wanted."""
        return self.get(trial) is not None and (not self.every or self._history(trial).is_file())

    def history(self, trial: Trial) -> list[HistoryRow]:
        """What a trial measured on its way, by round and node. Empty if it has no history.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self._history(trial)
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as exc:
            raise CheckpointError(f"{path} cannot be read: {exc}; remove it to run its trial again") from exc

    def _history(self, trial: Trial) -> Path:
        return self._folder / "histories" / f"{trial.digest}-every-{self.every}.jsonl"

    def run(self, trial: Trial, watch: Watch) -> Outcome:
        """Run a trial to its end, from its last checkpoint if there is one, and keep the outcome.

        The outcome of a trial that diverges is its error. Errors of the configuration or the disk are raised.
        """
        return self.keep(trial, simulate(trial, self._checkpoints(trial), watch, self.every))

    def keep(self, trial: Trial, outcome: Outcome) -> Outcome:
        """Write the outcome of a trial and its history, remove its checkpoints, and return the outcome as `get` does.

        An outcome that is there already stays: the trial was run again for its history.

        Raises:
            OSError: a file cannot be written.
        """
        outcome = dict(outcome)
        if (rows := outcome.pop("history", None)) is not None:
            self._history(trial).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._history(trial), "".join(json.dumps(row) + "\n" for row in rows))
        if (known := self.get(trial)) is not None:
            shutil.rmtree(self._checkpoints(trial), ignore_errors=True)
            return known
        line = json.dumps(outcome, separators=(",", ":"))
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(_end_of_lines(file))
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(self._checkpoints(trial), ignore_errors=True)
        with suppress(OSError):
            (self._folder / "checkpoints").rmdir()  # if it was the last
        kept: Outcome = json.loads(line)
        return kept

    def _read_new(self) -> None:
        """Read the lines that were added since the last call."""
        try:
            with self._file.open("rb") as file:
                file.seek(self._read_to)
                added = file.read()
        except FileNotFoundError:
            return
        except OSError as exc:
            raise CheckpointError(f"{self._file} cannot be read: {exc}") from exc
        added = added[: added.rfind(b"\n") + 1]
        for line in added.splitlines():
            outcome = self._outcome(line, self._lines + 1)
            self._known[_digest(_keys(outcome["config"]))] = outcome
            self._lines += 1
        self._read_to += len(added)

    def _outcome(self, line: bytes, number: int) -> Outcome:
        try:
            outcome: Outcome = json.loads(line)
            _keys(outcome["config"])
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            why = f"line {number} cannot be read: {exc}; remove the line to run its trial again"
            raise CheckpointError(f"{self._file}: {why}") from exc
        return outcome


def _end_of_lines(file: BinaryIO) -> int:
    """The size of a file without an unfinished last line."""
    size = file.seek(0, os.SEEK_END)
    while size:
        start = max(0, size - _BLOCK)
        file.seek(start)
        if (found := file.read(size - start).rfind(b"\n")) >= 0:
            return start + found + 1
        size = start
    return 0


def _keys(sections: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """By key, as in "run.nodes"."""
    return {f"{section}.{name}": value for section, keys in sections.items() for name, value in keys.items()}


def simulate(trial: Trial, folder: Path | None, watch: Watch, every: int = 0) -> Outcome:
    """Run a trial to its end, from its last checkpoint in ``folder``. Without a folder, it writes nothing.

    The outcome of a trial that diverges is its error. Errors of the configuration or the disk are raised.

    Args:
        every: rounds between two measurements, whose rows the outcome then has as ``history``. 0 for none.
    """
    from edgenode.simulate.history import History

    history = History(every, folder) if every else None
    try:
        outcome = _simulate(trial.config, folder, watch, history)
    except (ConfigError, CheckpointError):
        raise
    except EdgenodeError as exc:
        outcome = {"error": str(exc), "config": trial.config.as_dict()}
    return outcome if history is None else {**outcome, "history": history.rows}


def reporting(send: Callable[[int], None]) -> Watch:
    """Send the round of a simulation now, and on later calls at most every ``_REPORT_EVERY_S``."""

    def watch(simulation: Simulation) -> Callable[[], None]:
        send(simulation.round)
        reported_at_s = time.monotonic()

        def report() -> None:
            nonlocal reported_at_s
            if time.monotonic() - reported_at_s > _REPORT_EVERY_S:
                send(simulation.round)
                reported_at_s = time.monotonic()

        return report

    return watch


def _simulate(config: Config, folder: Path | None, watch: Watch, history: History | None) -> dict[str, Any]:
    from edgenode.simulate.simulation import Simulation

    simulation = Simulation(config, folder, history=history)
    lost = simulation.round > config.run.rounds and simulation.before_gossip() is None
    if folder and config.algorithm.name == "scsp" and lost:  # the result of SP is missing or damaged: start over
        shutil.rmtree(folder)
        simulation = Simulation(config, folder, history=history)
    result = simulation.run(watch(simulation))
    if config.algorithm.name == "attacked":
        accused = {(node, accusation.member): None for node, accusation in simulation.alarms}
        result["alarms"] = [{"node": node, "member": member} for node, member in accused]
    before = simulation.before_gossip()
    return result if before is None else {**result, "before_gossip": before}


def write_configs(all_trials: Sequence[Trial], folder: Path) -> None:
    """The exact run.toml of every trial, for `edgenode simulate`."""
    folder.mkdir(parents=True, exist_ok=True)
    for trial in all_trials:
        (folder / f"{trial.name}.toml").write_text(trial.config.to_toml(), encoding="utf-8")
