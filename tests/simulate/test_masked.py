"""Simulations of masked DiLoCo: the bits of the same run without masks, and the accuracy of DiLoCo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.masked_sum import MaskedSum
from edgenode.core.protocol.events import Finish, NodeAction, Push
from edgenode.node.mask_key import MaskKey
from edgenode.node.replica import Replica
from edgenode.simulate.simulation import Simulation
from tests.simulate.test_simulation import interrupted, models

pytestmark = [pytest.mark.slow, pytest.mark.group("simulation")]


def config(**changes: object) -> Config:
    settings = {
        "run.nodes": 4, "run.rounds": 4, "run.threads": 1, "run.checkpoint_every": 1, "task.local_steps": 2,
        "algorithm.name": "masked-diloco", "topology.graphs": ["complete"],
        **{key.replace("__", "."): value for key, value in changes.items()},
    }  # fmt: skip
    return load(None, settings, environ={})


def without_masks(self: MaskKey, spec: AlgorithmSpec, name: str, members: object) -> AlgorithmSpec:
    """In place of ``MaskKey.hide``: the same integers, as they are."""
    return replace(spec, rule=MaskedSum(4, 8, None).rule(spec.rule))


def test_run_has_the_bits_of_one_without_masks_also_when_it_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation that resumes has other keys. No message raises an alarm."""
    simulation = Simulation(config(), tmp_path / "whole")
    simulation.run()
    assert simulation.alarms == []
    interrupted(Simulation(config(), tmp_path / "resumed"), at=2)
    Simulation(config(), tmp_path / "resumed").run()
    monkeypatch.setattr(MaskKey, "hide", without_masks)
    Simulation(config(), tmp_path / "plain").run()
    assert models(tmp_path / "whole") == models(tmp_path / "resumed") == models(tmp_path / "plain")


def final(settings: Config) -> Floats:
    """The model that all nodes end with."""
    found: list[Floats] = []

    def observe(name: str, replica: Replica, action: NodeAction) -> None:
        if isinstance(action, Finish):
            found.append(action.z.read().copy())

    Simulation(settings, observe=observe).run()
    return found[0]


def test_models_are_those_of_diloco_within_rounding() -> None:
    """The distance is a small part of what training changes, and less with more levels."""
    exact = {"algorithm__name": "diloco", "algorithm__values": "float32"}
    model, begin = final(config(**exact)), final(config(**exact, task__learning_rate=1e-9))
    coarse, fine = (np.linalg.norm(final(config(algorithm__values=values)) - model) for values in ("int4", "int8"))
    assert fine < 0.1 * np.linalg.norm(model - begin)
    assert fine < coarse


def test_no_two_messages_of_two_runs_of_one_seed_are_equal() -> None:
    pushed = set[tuple[str, int, int, bytes]]()

    def observe(name: str, replica: Replica, action: NodeAction) -> None:
        if isinstance(action, Push):
            pushed.add((name, action.message.round, id(replica), bytes(action.message.payload)))

    simulations = [Simulation(config(), observe=observe) for _ in range(2)]
    for simulation in simulations:
        simulation.run()
    assert len(pushed) == len({payload for *_, payload in pushed}) == 2 * 4 * 4
