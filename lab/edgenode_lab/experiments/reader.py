"""Reads an experiment from a file. The paper's tables and experiments of the user's own have one format.

A file is a run.toml with rows. Its sections are what all runs have in common. A row has the keys in which its runs
differ, and the columns of the table name it by them, or by a label. A row may name a network of the paper: the scale
then determines model, data and length.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edgenode.config.load import load, read_toml
from edgenode.config.sections import SECTIONS
from edgenode.errors import ConfigError, one_of
from edgenode_lab.experiments import labels, runner
from edgenode_lab.experiments.definitions import METRICS, Curves, Experiment, Figure, Row
from edgenode_lab.experiments.scales import NETWORKS, Scale, Settings, choose_scale

T = TypeVar("T")
_LABEL = "row"  # the column of labels


class _About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a row has besides keys of run.toml. `Row` describes the fields."""

    network: str = ""
    length: Annotated[int, Meta(ge=1)] = 1
    epochs_per_graph: Annotated[int, Meta(ge=0)] = 0
    paper: dict[str, float] = {}


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the rows become a table. `Experiment` describes title, expected, columns (its labels), metrics, figure
    and curves.

    Attributes:
        same_steps: a row with several local steps has so many fewer rounds that all rows take as many steps.
    """

    title: str
    expected: str = ""
    columns: tuple[str, ...] = (_LABEL,)
    metrics: tuple[str, ...] = ("accuracy", "scsp", "factor", "sent")
    same_steps: bool = False
    figure: Figure | None = None
    curves: Curves = Curves()


@dataclass(frozen=True)
class _File:
    """An experiment as its file has it. ``rows`` have their sources, labels and keys."""

    path: Path
    table: _Table
    rows: tuple[tuple[str, str, Mapping[str, object]], ...]

    def read(self, scale: Scale) -> tuple[Row, ...]:
        return tuple(self._row(scale, *row) for row in self.rows)

    def _row(self, scale: Scale, source: str, label: str, keys: Mapping[str, object]) -> Row:
        about = _converted(source, {key: value for key, value in keys.items() if "." not in key}, _About)
        settings = {key: value for key, value in keys.items() if "." in key}
        for key in runner.FIXED_KEYS.keys() - {"algorithm.name"} & settings.keys():
            raise ConfigError(f"{source}: {key} cannot be set for an experiment: {runner.FIXED_KEYS[key]}")
        in_scale = about.network in ("", *scale.networks)
        if about.network and in_scale:
            rounds = about.length * scale.rounds(about.network)
            settings = {**scale.networks[about.network], "run.rounds": rounds, **settings}
        if self.table.same_steps and in_scale:
            settings["run.rounds"] = _rounds_of_as_many_steps(source, settings)
        load(None, settings, environ={}, source=source)  # refuses a wrong key, and names the row
        given = tuple(label if column == _LABEL else "" for column in self.table.columns)
        row = Row(
            given, settings if in_scale else None, about.paper, about.network, about.epochs_per_graph, about.length
        )
        return labels.shown(self.table.columns, row, runner.config_of(row, settings))


def read(path: Path) -> Experiment:
    """The experiment that a file describes, named like the file.

    Raises:
        ConfigError: the file cannot be read, or a row is not a valid configuration. The text names the row.
    """
    experiment, named = parse(path), dict[str, str]()
    for row in experiment.rows(choose_scale("smoke")):
        name, shown = runner.name_of(row), " | ".join(row.labels)
        if name in named:
            raise ConfigError(f"{path}: rows {named[name]!r} and {shown!r} would have one file name")
        named[name] = shown
    return experiment


def parse(path: Path) -> Experiment:
    """The experiment that a file describes. Its rows are checked when they are read.

    Raises:
        ConfigError: the file cannot be read, or does not have the parts of an experiment.
    """
    content = read_toml(path)
    if (folder := str(path.parent.absolute())) not in sys.path:
        sys.path.insert(0, folder)  # rows may name what is in a module beside the file
    rows, each = content.pop("rows", None), content.pop("each", {})
    if not isinstance(rows, dict | list) or not rows:
        raise ConfigError(f'{path}: it needs rows, as in [rows] and "top-1%" = {{ algorithm.share = 0.01 }}')
    header = {key: content.pop(key) for key in _Table.__struct_fields__ if key in content}
    table = _converted(str(path), {"title": path.stem.replace("{", "{{").replace("}", "}}"), **header}, _Table)
    _check(path, table)
    common = _flat(str(path), content)
    labelled = rows.items() if isinstance(rows, dict) else enumerate(rows, 1)
    written = [_written(path, label, row) for label, row in labelled]
    file = _File(path, table, tuple(
        (source, label, {**common, **varied, **keys})
        for varied in _each(f"{path}, [each]", each)
        for source, label, keys in written
    ))  # fmt: skip
    figure = table.figure or Figure(table.columns[-1], ("accuracy", "scsp"), table.columns[:-1], nominal=True)
    return Experiment(
        path.stem, table.title, table.columns, table.metrics, file.read, figure, table.expected, table.curves
    )


def _check(path: Path, table: _Table) -> None:
    """Refuse columns, metrics and a title that the table cannot have."""
    figure = table.figure or Figure("", ())
    known = (_LABEL, *labels.COLUMNS)
    for column in table.columns:
        if column not in known:
            raise ConfigError(f"{path}: {column!r} is in columns, but must be {one_of(known)}")
    for metric in (*table.metrics, *figure.y, *figure.x_metrics):
        try:
            METRICS[metric]
        except ConfigError as exc:
            raise ConfigError(f"{path}: {metric!r} is in metrics, but {exc}") from exc
    lines = {*figure.series, *([figure.kinds] if figure.kinds else []), *([] if figure.x_metrics else [figure.x])}
    if table.figure and (absent := lines - {*table.columns}):
        raise ConfigError(f"{path}: [figure] has {min(absent)!r}, which is not in columns")
    try:
        table.title.format(network="", graph="", data="")
    except (KeyError, IndexError, ValueError) as exc:
        raise ConfigError(f"{path}: title = {table.title!r}, but its fields are network, graph and data") from exc


def _written(path: Path, label: str | int, row: object) -> tuple[str, str, Mapping[str, object]]:
    """The source of a row, its label and its keys. A row of a list has a number in place of a label."""
    source = f"{path}, row {label!r}"
    if isinstance(label, str) and (not label.strip() or set("|\n") & set(label)):
        raise ConfigError(f"{source}: a label is one line of text, without vertical bars")
    if not isinstance(row, dict):
        raise ConfigError(f"{source}: expected keys of run.toml, as in {{ algorithm.share = 0.01 }}")
    return source, str(label), _flat(source, row)


def _each(source: str, content: object) -> Iterator[Mapping[str, object]]:
    """Every combination of the values that [each] lists for its keys. The first key changes last."""
    lists: dict[str, list[object]] = {}
    for key, values in _flat(source, content if isinstance(content, dict) else {"": content}).items():
        if not isinstance(values, list):
            raise ConfigError(f"{source}: {key} needs a list of values, one for each copy of the rows")
        lists[key] = values
    for chosen in product(*lists.values()):
        yield dict(zip(lists, chosen, strict=True))


def _flat(source: str, content: Mapping[str, object]) -> dict[str, object]:
    """Sections with dotted keys, as ``{"run": {"rounds": 3}}`` has ``run.rounds``, and the keys of `_About`."""
    flat: dict[str, object] = {}
    for name, value in content.items():
        if name in _About.__struct_fields__:
            flat[name] = value
        elif name in SECTIONS and isinstance(value, dict):
            flat |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            raise ConfigError(f"{source}: expected [rows] and sections of run.toml, not {name}")
    if (network := flat.get("network", "")) not in ("", *NETWORKS) and not isinstance(network, list):
        raise ConfigError(f"{source}: network = {network!r}, but it must be {one_of(NETWORKS)}")
    return flat


def _converted(source: str, content: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{source}: {exc}") from exc


def _rounds_of_as_many_steps(source: str, settings: Settings) -> int:
    """The rounds in which a row takes as many local steps as one with a step a round."""
    from edgenode import factory

    config = load(None, settings, environ={}, source=source)
    steps, exchange = config.task.local_steps, 1
    if steps in ("auto", 1):
        return config.run.rounds
    if config.algorithm.definition.rule().spans_period:  # local steps are taken before each period of the graph
        graph, *_ = factory.schedule(config).graphs
        exchange = len(graph.period(tuple(f"{i:04d}" for i in range(config.run.nodes))))
    return exchange * max(1, config.run.rounds // int(steps))
