"""result.json: its keys and numbers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from edgenode.config.load import load
from edgenode.storage import result_file
from edgenode.storage.result_file import NodeResult

CONFIG = load(None, environ={})
NODES = [
    NodeResult("n0", 0.8, 1.5, 100, 100, 1_000, 1_200, 50_000),
    NodeResult("n1", 0.6, 0.5, 100, 200, 3_000, 3_400, 150_000),
]
# documented keys, in their order
KEYS = [
    "schema", "algorithm", "compressor", "nodes", "mean_test_accuracy", "mean_metrics",
    "parameter_divergence_l2", "parameter_divergence_mse", "sum_u", "compression_factor", "wall_s",
]  # fmt: skip
NODE_KEYS = ["node", "test_accuracy", "u", "rounds", "messages", "payload_bytes", "wire_bytes"]


def test_result_has_the_documented_keys() -> None:
    result = result_file.summary(CONFIG, NODES, 12.3456, [np.zeros(3, np.float32)] * 2)
    assert [key for key in result if key in KEYS] == KEYS
    assert set(result) - set(KEYS) == {"config"}
    for node in result["nodes"]:
        assert [key for key in node if key in NODE_KEYS] == NODE_KEYS
        others = {"dense_bytes", "peak_memory_bytes", "joules_per_round", "power_sensor", "refusal", "metrics"}
        assert set(node) - set(NODE_KEYS) == others
        assert (node["joules_per_round"], node["power_sensor"], node["refusal"]) == (None, "not measured", None)
    assert result["schema"] == "edgenode/result/1"


def test_summary_computes_means_sums_and_ratios() -> None:
    result = result_file.summary(CONFIG, NODES, 12.3456)
    assert result["mean_test_accuracy"] == pytest.approx(0.7)
    assert (result["sum_u"], result["compression_factor"], result["wall_s"]) == (2.0, 50.0, 12.346)
    assert (result["algorithm"], result["compressor"]) == ("scsp", "topk-0.01-fitted1")
    assert result["config"]["run"]["nodes"] == 4


def test_mean_of_a_metric_is_over_the_nodes_that_have_it() -> None:
    measured = [replace(NODES[0], metrics={"auc": 0.5, "f1": 0.25}), replace(NODES[1], metrics={"auc": 0.75})]
    assert result_file.summary(CONFIG, measured, 1.0)["mean_metrics"] == {"auc": 0.625, "f1": 0.25}


def test_unknown_values_are_null() -> None:
    silent = [NodeResult("n0", 0.5, 1.0, 10, 0, 0, 0, 0)]
    result = result_file.summary(CONFIG, silent, 1.0)
    assert result["compression_factor"] is None
    assert result["parameter_divergence_l2"] is None
    assert result["parameter_divergence_mse"] is None


def test_divergence_is_mean_distance_and_mean_square() -> None:
    models = [np.array(values, np.float32) for values in ([3, 0], [-3, 0], [0, 4], [0, -4])]
    l2, mse = result_file.divergence(models)
    assert l2 == pytest.approx((3 + 3 + 4 + 4) / 4)
    assert mse == pytest.approx((9 + 9 + 16 + 16) / 8)


def test_equal_models_do_not_diverge() -> None:
    assert result_file.divergence([np.full(1000, 0.1, np.float32)] * 4) == (0.0, 0.0)


def test_divergence_of_many_models_needs_no_copy_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [np.float32(np.random.default_rng(i).standard_normal(50)) for i in range(9)]
    whole = result_file.divergence(models)
    monkeypatch.setattr(result_file, "_STACKED", 8)
    monkeypatch.delattr(np, "stack")
    assert result_file.divergence(models) == pytest.approx(whole, rel=1e-12)


def test_divergence_is_computed_in_double_precision() -> None:
    models = [np.array([1.0 + step * 2**-23], np.float32) for step in (0, 1)]
    assert result_file.divergence(models)[0] == pytest.approx(2**-24, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "topk-0.01-fitted1"),
        ({"share": 0.001, "values": "bfloat16"}, "topk-0.001-bfloat16"),
        ({"compressor": "identity", "values": "float32"}, "identity-float32"),
        ({"compressor": "random", "bits": 2}, "random-2bit"),
        ({"compressor": "rolling", "values": "int4"}, "rolling-0.01-int4"),
        ({"name": "local"}, "none"),
        ({"name": "sgp"}, "identity-float32"),
    ],
)
def test_every_compressor_has_a_name(settings: dict[str, object], name: str) -> None:
    config = load(None, {f"algorithm.{key}": value for key, value in settings.items()}, environ={})
    assert result_file.describe_compressor(config) == name


def test_result_of_a_node_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result_file.write(path, result_file.summary(CONFIG, NODES[:1], 1.0))
    assert asdict(result_file.read_node(path)) == asdict(NODES[0])
    text = path.read_text()
    assert text.endswith("}\n")
    assert math.isclose(json.loads(text)["nodes"][0]["u"], 1.5)


@pytest.mark.parametrize(("before", "average", "gain"), [(None, 0.1, True), (0.8, 0.79, True), (0.8, 0.77, False)])
def test_clearly_worse_average_gets_advice(before: float | None, average: float, gain: bool) -> None:
    reason = result_file.no_gain(before, average)
    assert (reason == "") is gain
    assert gain or "a test accuracy of 77.0%, and the models had 80.0% before: they are too far apart" in reason
    reason = result_file.no_gain(before, average, of_one=True)
    assert gain or "this node's model had 80.0% before: if it is so at most nodes, they are too far apart" in reason
