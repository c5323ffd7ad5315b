"""Every experiment that edgenode-lab has, by name. `tables` has a file for each, in the format of `reader`.

Rows with equal keys of run.toml are measured once, also across experiments. One trial of SCSP measures SP too: until
its gossip rounds it is bit-identical to SP, and it is evaluated at that point.
"""

from __future__ import annotations

from pathlib import Path

from edgenode_lab.experiments import reader
from edgenode_lab.experiments.definitions import Experiment

_TABLES = Path(__file__).parent / "tables"
_NAMES = (
    "table2", "table3", "table4", "table6", "table7", "fig1", "fig2", "fig6", "fig7", "rolling", "frontier", "longer",
    "honest", "poison", "epsilon",
)  # fmt: skip

EXPERIMENTS: dict[str, Experiment] = {name: reader.parse(_TABLES / f"{name}.toml") for name in _NAMES}
