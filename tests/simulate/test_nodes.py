"""What the nodes of a simulation train and test, and how little each of them asks for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from edgenode.config.load import load
from edgenode.entry_points import Group
from edgenode.simulate import nodes
from edgenode.simulate.simulation import Simulation

KEYS = {"run.rounds": 2, "run.nodes": 6, "run.threads": 1, "algorithm.name": "sp", "task.batch_size": 200}


def test_all_of_a_few_nodes_test_and_a_sample_of_many() -> None:
    few, many = [f"n{i}" for i in range(1024)], [f"n{i}" for i in range(1025)]
    assert nodes.sample(few) == set(few)
    tested = nodes.sample(many)
    assert (len(tested), "n0" in tested, tested <= set(many)) == (128, True, True)


def test_sample_is_what_a_result_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MOST_TESTED", 5)
    monkeypatch.setattr(nodes, "SAMPLE", 3)
    of_sample = Simulation(load(None, KEYS, {})).run()
    monkeypatch.setattr(nodes, "MOST_TESTED", 6)
    of_all = Simulation(load(None, KEYS, {})).run()
    accuracies = [node["test_accuracy"] for node in of_all["nodes"]]
    assert None not in accuracies
    expected = [accuracy if place % 2 == 0 else None for place, accuracy in enumerate(accuracies)]
    assert [node["test_accuracy"] for node in of_sample["nodes"]] == expected
    assert of_sample["parameter_divergence_l2"] == of_all["parameter_divergence_l2"]  # it trains alike


def test_code_of_the_task_is_identified_once_for_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    providers = Group.providers

    def counted(group: Group[object], names: Iterable[str]) -> dict[str, str]:
        asked.append(group.name)
        return providers(group, names)

    made = nodes.task_nodes(load(None, KEYS, {}), warn=asked.append)
    monkeypatch.setattr(Group, "providers", counted)
    nodes.refuse_unequal(made)
    assert asked == ["edgenode.models", "edgenode.datasets"]
