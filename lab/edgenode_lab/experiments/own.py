"""Reads an experiment of the user's own: a run.toml with one more section, [rows].

The sections of run.toml are what all runs have in common. A row has a label, and the keys in which its runs differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgenode.config.load import load, read_toml
from edgenode.config.schema import SECTIONS
from edgenode.errors import ConfigError
from edgenode_lab.experiments.definitions import Experiment, Figure, Row
from edgenode_lab.experiments.runner import FIXED_KEYS, Trial

_LABEL = "row"


def read(path: Path) -> Experiment:
    """The experiment that a file describes, named like the file.

    Raises:
        ConfigError: the file cannot be read, or a row is not a valid configuration. The text names the row.
    """
    content = read_toml(path)
    variations = content.pop("rows", None)
    if not isinstance(variations, dict) or not variations:
        raise ConfigError(f'{path}: it needs rows, as in [rows] and "top-1%" = {{ algorithm.share = 0.01 }}')
    common = dict(_keys(str(path), content))
    trials = [_trial(f"{path}, row {label!r}", label, common, varied) for label, varied in variations.items()]
    labels: dict[str, str] = {}
    for trial in trials:
        (label,) = trial.row.labels
        if trial.name in labels:
            raise ConfigError(f"{path}: rows {labels[trial.name]!r} and {label!r} would have one file name")
        labels[trial.name] = label
    rows = tuple(trial.row for trial in trials)
    title = path.stem.replace("{", "{{").replace("}", "}}")
    figure = Figure(_LABEL, ("accuracy", "scsp"), nominal=True)
    return Experiment(path.stem, title, (_LABEL,), ("accuracy", "scsp", "factor", "sent"), lambda _: rows, figure, "")


def _trial(source: str, label: str, common: Mapping[str, object], varied: object) -> Trial:
    """The trial of a row with seed 0."""
    if not label.strip() or set("|\n") & set(label):
        raise ConfigError(f"{source}: a label is one line of text, without vertical bars")
    if not isinstance(varied, dict):
        raise ConfigError(f"{source}: expected keys of run.toml, as in {{ algorithm.share = 0.01 }}")
    settings = {**common, **dict(_keys(source, varied))}
    for key in FIXED_KEYS.keys() - {"algorithm.name"} & settings.keys():
        raise ConfigError(f"{source}: {key} cannot be set for an experiment: {FIXED_KEYS[key]}")
    return Trial(Row((label,), settings), 0, load(None, settings, environ={}, source=source))


def _keys(source: str, sections: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The dotted keys of sections, as ``{"run": {"rounds": 3}}`` has ``run.rounds``."""
    for section, keys in sections.items():
        if section not in SECTIONS or not isinstance(keys, dict):
            raise ConfigError(f"{source}: expected [rows] and sections of run.toml, not {section}")
        yield from ((f"{section}.{key}", value) for key, value in keys.items())
