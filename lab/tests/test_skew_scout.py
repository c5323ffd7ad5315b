"""How Skew-Scout chooses the next share, in simulations that resume, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgenode import factory
from edgenode.config.load import load
from edgenode.errors import CheckpointError, ConfigError
from edgenode.simulate.simulation import Simulation
from edgenode_lab.algorithms.skew_scout import SHARES, ShareSearch
from tests.simulate.test_simulation import config, interrupted, models


def a_search(share: float = 0.01) -> ShareSearch:
    return ShareSearch.starting_at(share, tolerated=0.05, loss_weight=50)


@pytest.mark.parametrize(("share", "nearest"), [(1e-9, 0.001), (0.01, 0.01), (0.02, 0.03), (0.015, 0.01), (1.0, 1.0)])
def test_search_starts_at_the_nearest_share(share: float, nearest: float) -> None:
    assert a_search(share).share == nearest


def test_cost_counts_excess_loss_and_all_bytes_sent() -> None:
    search = a_search()
    at = search.at
    search.update(lost=0.15, sent=0.004)
    assert search.costs[at] == pytest.approx(50 * 0.10 + 0.004)
    search.at = at
    search.update(lost=0.05, sent=0.004)
    assert search.costs[at] == 0.004
    search.at = at
    search.update(lost=-0.2, sent=0.004)
    assert search.costs[at] == 0.004


def test_share_rises_while_too_much_is_lost_and_else_falls() -> None:
    search = a_search(0.01)
    search.update(lost=0.2, sent=0.004)
    assert search.share == 0.03
    search.update(lost=0.1, sent=0.012)
    assert search.share == 0.1
    search = a_search(0.01)
    search.update(lost=0.0, sent=0.004)
    assert search.share == 0.003


def settled(cost: dict[float, tuple[float, float]], share: float) -> float:
    """The share after many measurements, if each share always has the same cost."""
    search = a_search(share)
    for _ in range(20):
        search.update(*cost[search.share])
    return search.share


COST = {share: (max(0.0, 0.3 - 3 * share), 0.4 * share) for share in SHARES}  # share 0.1 loses nothing and sends 0.04


@pytest.mark.parametrize("share", SHARES)
def test_search_settles_at_the_cheapest_share(share: float) -> None:
    cheapest = min(SHARES, key=lambda s: 50 * max(0.0, COST[s][0] - 0.05) + COST[s][1])
    assert cheapest == 0.1
    assert settled(COST, share) == cheapest


@pytest.mark.parametrize(("share", "lost"), [(0.001, 0.0), (1.0, 0.9)])
def test_search_stays_at_either_end(share: float, lost: float) -> None:
    assert settled(dict.fromkeys(SHARES, (lost, 0.0)), share) == share


def test_search_moves_on_when_its_share_gets_worse() -> None:
    search = a_search(0.01)
    for _ in range(20):
        search.update(*COST[search.share])
    assert search.share == 0.1
    search.update(lost=0.5, sent=0.04)
    assert search.share == 0.3


# --- in a simulation


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# Data sorted by label and little exchange: models lose accuracy on other nodes' data.
SKEW_SCOUT = {
    "algorithm__name": "skew-scout",
    "algorithm__share": 0.01,
    "algorithm__options": {"travel_every": 5},
    "task__skew": 1.0,
    "task__learning_rate": 0.1,
    "run__rounds": 24,
    "run__checkpoint_every": 3,
    "topology__graphs": ["a"],
}


def measurements(out: Path) -> list[dict[str, float]]:
    log: list[dict[str, float]] = json.loads((out / "skew-scout.json").read_text())
    return log


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with Skew-Scout."""
    out = tmp_path_factory.mktemp("searched")
    Simulation(config(**SKEW_SCOUT), out).run()
    return out


def test_skew_scout_sends_more_while_models_lose_accuracy(searched: Path) -> None:
    log = measurements(searched)
    assert [measured["round"] for measured in log] == [5, 10, 15, 20]
    assert [measured["share"] for measured in log] == [0.01, 0.03, 0.1, 0.3]
    assert all(measured["lost"] > 0.05 for measured in log)
    sent = [measured["sent"] for measured in log]
    assert sent == sorted(sent)
    assert 0.002 < sent[0] < 0.01 < sent[-1] < 0.2


@pytest.mark.parametrize("at", [5, 15])
def test_interrupted_skew_scout_resumes_to_the_same_bits(tmp_path: Path, searched: Path, at: int) -> None:
    interrupted(Simulation(config(**SKEW_SCOUT), tmp_path), at)
    Simulation(config(**SKEW_SCOUT), tmp_path).run()
    assert models(tmp_path) == models(searched)
    assert measurements(tmp_path) == measurements(searched)


@pytest.mark.parametrize("content", ["", "[]", '[{"round": 5}]', "[1]", "{}"])
def test_skew_scout_does_not_resume_without_its_file(tmp_path: Path, content: str) -> None:
    interrupted(Simulation(config(**SKEW_SCOUT), tmp_path), 13)
    (tmp_path / "skew-scout.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"skew-scout\.json cannot be read, and the run cannot resume without it"):
        Simulation(config(**SKEW_SCOUT), tmp_path)


# --- configuration


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (
            {"compressor": "identity"},
            'algorithm.compressor = "identity", but with skew-scout it must be "topk": it chooses the share that '
            "topk keeps",
        ),
        (
            {"averaging_rate": 0.01},
            "algorithm.averaging_rate = 0.01, but with skew-scout it must be unset: it follows the share",
        ),
        (
            {"options.every": 5},
            'algorithm.options.every = 5, but with skew-scout it must be "travel_every", "tolerated_loss" or '
            '"loss_weight"',
        ),
        (
            {"options.travel_every": "often"},
            'algorithm.options.travel_every = "often", but it must be a value like 500',
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(keys: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"command-line option: {reason}")):
        load(None, {"algorithm.name": "skew-scout", **{f"algorithm.{key}": value for key, value in keys.items()}}, {})


@pytest.mark.parametrize("options", [{"travel_every": 0}, {"tolerated_loss": 1.5}, {"loss_weight": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="travel_every must be 1 or more"):
        Simulation(config(algorithm__name="skew-scout", topology__graphs=["a"], algorithm__options=options))


def test_skew_scout_has_default_options_and_values() -> None:
    loaded = load(None, {"algorithm.name": "skew-scout", "algorithm.options.travel_every": 5}, {}).algorithm
    assert loaded.options == {"travel_every": 5, "tolerated_loss": 0.05, "loss_weight": 50.0}
    assert (loaded.compressor, loaded.values) == ("topk", "int8")


def test_skew_scout_cannot_run_on_devices() -> None:
    loaded = load(None, {"algorithm.name": "skew-scout"}, {})
    factory.algorithm_spec(loaded)
    for controller in (True, False):
        with pytest.raises(ConfigError, match="use edgenode simulate"):
            factory.check_networked(loaded, controller)
