"""Plays the runs of an experiment, and keeps the outcome of each.

An outcome lies under a digest of its configuration, so experiments share it, and whoever starts again goes on with
the first run that has none, from its last checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgenode import config as run_toml
from edgenode.config import Config
from edgenode.errors import CheckpointError, ConfigError, EdgenodeError
from edgenode.experiments.definitions import Outcome, Row
from edgenode.experiments.presets import Settings
from edgenode.storage.checkpoints import write_atomically

if TYPE_CHECKING:
    from edgenode.simulate.runner import Simulation

_OURS = frozenset({"run.seed", "run.device"})
_CHECKPOINTS = 20  # per run: each costs a flush to the disk for every node


@dataclass(frozen=True)
class Cell:
    """One run: a row of a table with one seed."""

    row: Row
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """For people and for file names."""
        words = [*self.row.labels, f"seed {self.seed}"]
        return "-".join(re.sub(r"[^\w.]+", "-", word).strip("-") for word in words)

    @property
    def digest(self) -> str:
        """Of the keys that are not as they are by default: a key that is new to edgenode makes no run a new one."""
        values = {f"{section}.{key}": v for section, keys in self.config.as_dict().items() for key, v in keys.items()}
        said = {k: v for k, v in values.items() if k not in run_toml.LOCAL_KEYS and v != run_toml.KEYS[k].default}
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def cells(
    rows: Sequence[Row], seeds: Iterable[int], device: str = "cpu", overrides: Settings = MappingProxyType({})
) -> list[Cell]:
    """Every run of these rows, seed by seed, so that a first whole table is there early.

    Args:
        overrides: keys of run.toml that are to be alike in all runs, whatever their rows say.

    Raises:
        ConfigError: a row or ``overrides`` asks for what cannot be.
    """
    if taken := sorted(_OURS & overrides.keys()):
        raise ConfigError(f"{taken[0]} cannot be set for an experiment: each run has its own; use --seeds and --device")
    threads: Settings = {"run.threads": 1}
    return [
        Cell(row, seed, _config({**threads, **row.settings, **overrides, "run.seed": seed, "run.device": device}))
        for seed in seeds
        for row in rows
        if row.settings
    ]


def _config(settings: Settings) -> Config:
    rounds = run_toml.load(None, settings, environ={}).run.rounds
    return run_toml.load(None, {"run.checkpoint_every": max(1, rounds // _CHECKPOINTS), **settings}, environ={})


class Outcomes:
    """What is known of runs, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.digest}.json"

    def get(self, cell: Cell) -> Outcome | None:
        """The outcome of a run; None if there is none yet.

        Raises:
            CheckpointError: the file is not what was written.
        """
        path = self._path(cell)
        try:
            outcome: Outcome = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise CheckpointError(f"{path} cannot be read: {exc}; remove it to measure it anew") from exc
        return outcome

    def play(self, cell: Cell, watch: Callable[[Simulation], Callable[[], None]]) -> Outcome:
        """Play a run to its end, from its last checkpoint if it was begun, and keep the outcome.

        A run that diverges has an outcome too: what went wrong. Other errors are raised.
        """
        path = self._path(cell)
        folder = self._folder / cell.config.digest()[:16]
        try:
            outcome = _play(cell.config, folder, watch)
        except (ConfigError, CheckpointError):
            raise
        except EdgenodeError as exc:
            outcome = {"error": str(exc), "config": cell.config.as_dict()}
        text = json.dumps(outcome, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        kept: Outcome = json.loads(text)
        return kept


def _play(config: Config, folder: Path, watch: Callable[[Simulation], Callable[[], None]]) -> dict[str, Any]:
    from edgenode.simulate.runner import Simulation

    simulation = Simulation(config, folder)
    if config.algorithm.name == "scsp" and simulation.round >= config.run.rounds:
        shutil.rmtree(folder)  # stopped in its gossip: what SP had before is not known any more
        simulation = Simulation(config, folder)
    result = simulation.run(watch(simulation))
    before = simulation.before_gossip()
    return result if before is None else {**result, "before_gossip": before}


def write_configs(runs: Sequence[Cell], folder: Path) -> None:
    """The exact run.toml of every run: `edgenode simulate` plays it."""
    folder.mkdir(parents=True, exist_ok=True)
    for cell in runs:
        (folder / f"{cell.name}.toml").write_text(cell.config.to_toml(), encoding="utf-8")
