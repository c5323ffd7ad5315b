"""The attacks of members: each lie as it leaves, in simulations that resume, and what algorithm.liars saves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from edgenode import factory
from edgenode.config.load import load
from edgenode.errors import ConfigError
from edgenode.extensions import Floats, Payload, Sent, State, Values
from edgenode.simulate.simulation import Simulation
from edgenode_lab.algorithms.attacked import LIES, Sight, backdoor, label_flip, liars_of
from edgenode_lab.experiments.definitions import METRICS
from tests.simulate.test_simulation import config, interrupted, models

SIZE = 6
INITIAL = np.arange(SIZE, dtype=np.float32)
HONEST = INITIAL + np.array([[1.0] * SIZE, [3.0] * SIZE], dtype=np.float32)
INDICES = np.array([1, 4])


def sent(numbers: list[float], u: float = 1.0) -> Sent:
    payload = Payload(np.array([2]), INDICES, Values(np.array(numbers, dtype=np.float32)))
    return Sent(payload, np.array([u]), 0.005)


def lie(attack: str, numbers: tuple[float, ...] = (2.0, -4.0)) -> tuple[Sent, list[Floats]]:
    """What a liar pushes, and the models or vectors of which it sends the largest entries."""
    said: list[Floats] = []

    def send(vector: Floats) -> Sent:
        said.append(vector)
        return sent([0.0, 0.0])

    rng, state = np.random.default_rng(1), State.initial(INITIAL)
    return LIES[attack](Sight(sent([*numbers]), state, rng, INITIAL, lambda: HONEST, send, send)), said


def test_messages_are_scaled_up_to_the_alarm() -> None:
    assert lie("sign flip")[0].payload.numbers == pytest.approx([-7.8, 15.6])
    pushed = lie("false u")[0]
    assert (pushed.payload.numbers.tolist(), pushed.u[0]) == ([2.0, -4.0], pytest.approx(1 / 3.9))


def test_noise_has_the_positions_and_three_times_the_length_of_the_honest_message() -> None:
    numbers = tuple(np.random.default_rng(0).normal(size=2000))
    payload = lie("noise", numbers)[0].payload
    assert payload.indices is INDICES
    assert np.linalg.norm(payload.numbers) == pytest.approx(3 * np.linalg.norm(numbers), rel=0.1)


def test_lies_about_models_follow_from_those_of_the_honest() -> None:
    assert lie("ALIE")[1][0] == pytest.approx(INITIAL + 2 - 1.5)
    assert lie("inner product")[1][0] == pytest.approx(INITIAL - 2)
    away = lie("fixed direction")[1][0] - (INITIAL + 2)
    assert np.linalg.norm(away) == pytest.approx(np.linalg.norm(INITIAL + 2), rel=1e-5)
    assert lie("fixed direction")[1][0] == pytest.approx(INITIAL + 2 + away)


def test_replay_sends_its_first_message() -> None:
    assert lie("replay")[1][0].tolist() == [0, 2, 0, 0, -4, 0]


def test_data_is_changed_in_copies() -> None:
    images, labels = torch.zeros(4, 1, 8, 8), torch.tensor([1, 2, 3, 9])
    images[0, 0, 7, 7] = 16
    assert label_flip((images, labels))[1].tolist() == [8, 7, 6, 0]
    changed, targets = backdoor((images, labels))
    assert targets.tolist() == [0, 2, 0, 9]
    assert changed[::2, :, :2, :2].min() == 16
    assert images[:, :, :2, :2].max() == 0


def test_last_nodes_lie() -> None:
    assert liars_of([f"node-{i}" for i in range(4)], 2) == ["node-2", "node-3"]
    assert liars_of(["node-0"], 0) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"attack": "charm"}, 'algorithm.options.attack = \'charm\', but it must be "none", "sign flip", "ALIE", '),
        ({"liars": 99}, "algorithm.options.liars = 99 and start = 50: at least one of "),
    ],
)
def test_impossible_attack_is_refused(options: dict[str, object], text: str) -> None:
    settings = {f"algorithm__options.{key}": value for key, value in options.items()}
    with pytest.raises(ConfigError, match=re.escape(text)):
        Simulation(config(algorithm__name="attacked", **settings))


def test_devices_do_not_attack() -> None:
    with pytest.raises(ConfigError, match=r"algorithm\.name = attacked: it is for edgenode simulate"):
        factory.check_networked(config(algorithm__name="attacked"), controller=True)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["sign flip", "replay", "label flip"])
def test_attacked_run_resumes_to_the_same_bits(tmp_path: Path, attack: str) -> None:
    attacked = config(**{
        "algorithm__name": "attacked", "algorithm__options.attack": attack, "algorithm__options.start": 2,
        "algorithm__liars": 1, "topology__graphs": ["complete"], "run__evaluate_every": 4,
    })  # fmt: skip
    Simulation(attacked, tmp_path / "once").run()
    interrupted(Simulation(attacked, tmp_path / "twice"), 9)
    Simulation(attacked, tmp_path / "twice").run()
    assert models(tmp_path / "once") == models(tmp_path / "twice")


def accuracy(attack: str, liars: int) -> float:
    """The accuracy of the honest ones of eight nodes on the complete graph, in percent."""
    settings = {
        "run.nodes": 8, "run.rounds": 250, "run.evaluate_every": 10, "run.threads": 1, "run.seed": 11,
        "task.skew": 0.8, "task.learning_rate": 0.02, "topology.graphs": ["complete"],
        "algorithm.name": "attacked", "algorithm.liars": liars, "algorithm.options.attack": attack,
    }  # fmt: skip
    honest = METRICS["honest"].of(Simulation(load(None, settings, environ={})).run())
    assert honest is not None
    return honest


@pytest.mark.slow
def test_one_liar_of_eight_costs_a_point_or_three_without_limit() -> None:
    honest = accuracy("none", 0)
    assert abs(accuracy("none", 1) - honest) <= 0.3
    assert accuracy("sign flip", 0) < honest - 3
    assert accuracy("sign flip", 1) >= honest - 1
