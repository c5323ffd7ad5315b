"""Plays the runs of a cell, each on other random halves of the data, and keeps what attackers see of each.

A run that has been played is found by its configuration, so the same command started again resumes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.errors import CheckpointError
from edgenode.simulate.nodes import task_nodes
from edgenode.simulate.simulation import Simulation
from edgenode.storage.filesystem import REAL_DISK, put_in_place
from edgenode_lab.privacy import victims
from edgenode_lab.privacy.transcript import Transcript

NODES = 4
MOMENTS = 8  # of a run, at which copies and reports are recorded
BASE: Mapping[str, object] = {
    "run.nodes": NODES,
    "run.rounds": 100,
    "run.threads": 1,
    "run.seed": 0,
    "task.entry": victims.ENTRY,
    "task.batch_size": 16,
    "topology.graphs": ["a"],
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting that is attacked.

    Attributes:
        labels: what the table says of it: algorithm, graph, skew.
        settings: the keys of run.toml that differ from those of all cells.
        samples: the number of digits of which every run trains on half.
        skew: the skew of the nodes' parts.
        epsilon: the budget of each node. None trains without differential privacy.
        averages: the neighbour uses the models that all nodes have after each exchange, and no message.
    """

    labels: tuple[str, str, str]
    settings: Mapping[str, object]
    samples: int = 480
    skew: float = 0.0
    epsilon: float | None = None
    averages: bool = False

    @property
    def name(self) -> str:
        return ", ".join(self.labels)

    def config(self, draw: int, overrides: Mapping[str, object]) -> Config:
        """Return the configuration of one run of this cell.

        Raises:
            ConfigError: it is not valid.
        """
        privacy = {} if self.epsilon is None else {"privacy.epsilon": self.epsilon}
        options = {"draw": draw, "samples": self.samples, "nodes": NODES, "skew": self.skew}
        return load(None, {**BASE, **self.settings, **privacy, "task.options": options, **overrides}, environ={})


@dataclass(frozen=True)
class Seen:
    """What is seen of one run.

    Attributes:
        members: which samples it trained on, [samples].
        copies: the confidence of a neighbour's copies of the owner's model in each sample, [samples, moments].
        reports: the losses at all moments, and the sketch, of the owner of each sample, [samples, moments + 64].
        final: the confidence of the owner's final model in each sample, [samples].
        first: what the neighbour believes that the first round changed in each node's model, [nodes, size].
        initial: the initial model, [size].
        accuracy: the mean test accuracy of the nodes.
        sent: the payload bytes that a node sent, as the mean over the nodes.
    """

    members: NDArray[np.bool_]
    copies: NDArray[np.float64]
    reports: NDArray[np.float64]
    final: NDArray[np.float64]
    first: NDArray[np.float32]
    initial: NDArray[np.float32]
    accuracy: NDArray[np.float64]
    sent: NDArray[np.float64]


def play(cell: Cell, draw: int, overrides: Mapping[str, object], folder: Path) -> Seen:
    """Return what is seen of one run: from its file in ``folder``, or of the run, which is then played and kept.

    Raises:
        EdgenodeError: the configuration is not valid, training diverged, or the file is damaged.
        OSError: the file cannot be written.
    """
    config = cell.config(draw, overrides)
    path = folder / f"{config.digest(rounds=True)[:16]}{'-averages' if cell.averages else ''}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            return Seen(**arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, EOFError, BadZipFile) as exc:
        raise CheckpointError(f"{path} cannot be read: {exc}; remove it to play its run again") from exc
    seen = _play(config, victims.Pool(cell.samples, NODES, cell.skew), draw, cell.averages)
    content = io.BytesIO()
    np.savez(content, **{name: getattr(seen, name) for name in Seen.__dataclass_fields__})
    folder.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    REAL_DISK.write(scratch, [content.getvalue()])
    put_in_place(scratch, path)
    return seen


def _play(config: Config, pool: victims.Pool, draw: int, averages: bool = False) -> Seen:
    images, rounds = pool.images, config.run.rounds
    initial = initial_model(config)
    moments = sorted({-(-rounds * i // MOMENTS) for i in range(1, MOMENTS + 1)})

    def measure(_name: str, z: Floats) -> NDArray[np.float64]:
        return victims.confidences(z, images, pool.labels)

    transcript = Transcript(factory.algorithm_spec(config), initial, moments, config.run.seed, measure, averages)
    result = Simulation(config, observe=transcript.observe).run()
    names = [f"node-{number}" for number in range(config.run.nodes)]
    owners, everyone = pool.owners(), np.arange(len(images))
    reports = np.array([[*transcript.losses[name], *transcript.sketches[name]] for name in names])
    return Seen(
        members=pool.members(draw),
        copies=np.array([transcript.copies[name] for name in names]).transpose(0, 2, 1)[owners, everyone],
        reports=reports[owners],
        final=np.array([transcript.final[name] for name in names])[owners, everyone],
        first=np.array([transcript.first[name] for name in names]),
        initial=initial,
        accuracy=np.array(result["mean_test_accuracy"]),
        sent=np.mean([node["payload_bytes"] for node in result["nodes"]]),
    )


def initial_model(config: Config) -> Floats:
    """The common initial model: a function of the seed, which every member knows."""
    from edgenode.core.topology.period import Epoch

    names = [f"node-{number}" for number in range(config.run.nodes)]
    nodes = task_nodes(config, lambda _warning: None)
    epoch = Epoch.of([training.prepare() for training in nodes.values()])
    return nodes[names[0]].trainer(names[0], names, epoch).initial()
