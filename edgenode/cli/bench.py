"""``edgenode bench``: what edgenode costs on this machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import click

from edgenode.bench import Measurement
from edgenode.cli.fitted_table import Column, FittedTable, stdout
from edgenode.cli.shared_options import json_option, take_sigterm_as_ctrl_c, warn
from edgenode.factory import cores
from edgenode.node.resources import keep_freed_memory

PARTS = ("selection", "codec", "round", "ring", "memory")
SCHEMA = "edgenode/bench/1"


def _chosen(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for unknown in (name for name in names if name not in PARTS):
        raise click.BadParameter(f"{unknown!r} is none of {', '.join(PARTS)}")
    return names


@click.command()
@click.option("--only", "parts", default=",".join(PARTS), metavar="PART,...", callback=_chosen,
              help=f"What to measure, of {', '.join(PARTS)}. [default: all]")  # fmt: skip
@json_option
def bench(parts: tuple[str, ...], as_json: bool) -> None:
    """Measure what edgenode costs on this machine: half a minute on a PC, minutes on a small board.

    Measures the selection and the encoding of a message, a round next to its local step, the rate of a ring of four
    nodes, and the memory of a node. The nodes are real processes that talk over gRPC with TLS, with a local step that
    costs nothing. Selection, encoding and round are processor time of one thread. Leaves no file behind.

    \b
    Examples:
      edgenode bench
      edgenode bench --only ring,memory
      edgenode bench --json > $(hostname).json
    """
    machine = _machine()
    take_sigterm_as_ctrl_c()
    if machine["load"] > machine["cores"] / 2:
        warn(f"other work disturbs the measurement: the load is {machine['load']} on {machine['cores']} cores")
    found = list(_measure(parts))
    if as_json:
        rows = [measurement.as_dict() for measurement in found]
        click.echo(json.dumps({"schema": SCHEMA, "machine": machine, "measurements": rows}, indent=2))
        return
    stdout().print(FittedTable(_COLUMNS, found))


def _measure(parts: tuple[str, ...]) -> Iterator[Measurement]:
    """Return the chosen parts, in the order of the table."""
    _show("load torch")
    from edgenode.bench import ring, vectors

    keep_freed_memory()  # as a node does
    with vectors.one_thread():
        if {"selection", "codec"} & set(parts):
            _show("selection and codec")
            yield from (row for row in vectors.compression() if row.part in parts)
        if "round" in parts:
            _show(f"rounds of {vectors.NETWORK}")
            yield from vectors.rounds()
    if {"ring", "memory"} & set(parts):
        found = ring.play(list(ring.SIZES) if "ring" in parts else [ring.LARGE], _show)
        if "ring" in parts:
            yield from ring.rates(found)
        if "memory" in parts:
            yield from ring.memory(found[ring.LARGE], ring.SIZES[ring.LARGE])


def _show(text: str) -> None:
    click.echo(f"edgenode: {text}", err=True)


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("edgenode", "torch", "numpy", "grpcio")},
    }


def _number(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


_COLUMNS: tuple[Column[Measurement], ...] = (
    Column("part", lambda m: m.part, right=False),
    Column("measured", lambda m: m.what, right=False, wraps=True),
    Column("median", lambda m: _number(m.median)),
    Column("range", lambda m: f"{_number(min(m.values))} to {_number(max(m.values))}", leave_out=1),
    Column("unit", lambda m: m.unit, right=False),
)
