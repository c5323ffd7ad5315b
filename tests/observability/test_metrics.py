"""Conventional names, units and labels, and a Grafana dashboard that uses only these."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from edgenode.core.protocol.status import Fault, NodeState, Relayed, RelayView
from edgenode.evaluation import Metric
from edgenode.observability.metrics import cluster_metrics, node_metrics
from tests.cli.test_status_table import a_node, a_plan, a_status

GRAFANA = Path("deploy/grafana-dashboard.json")


def a_cluster(distance: float | None = 0.5) -> bytes:
    faults = (Fault("n1", "push", 3),)
    node = a_node(
        round=7,
        faults=faults,
        save_error_s=2.5,
        accuracy=0.25,
        metrics=(Metric("auc", 0.25), Metric("return", -187.5)),
        payload_bytes=1000,
        gossip_bytes=300,
        messages=7,
        state=NodeState.RUNNING,
    )
    liar = a_node('n"1', faults=(Fault('n"1', "report", 2),))  # of its own name: the controller's count
    status = a_status(node, liar, plan=a_plan())
    relayed = (Relayed("n1", 2, 900), Relayed("n1", 0, 7, "fra"))
    relays = (RelayView("fra", "fra:7702", False, 9.0),)
    return cluster_metrics(replace(status, consensus_distance=distance, relayed=relayed, relay_processes=relays))


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


def test_cluster_metrics_have_a_label_per_node() -> None:
    found = samples(a_cluster())
    assert found["edgenode_round", "node=n0"] == 7
    assert found["edgenode_sent_bytes_total", "node=n0", "phase=train"] == 700
    assert found["edgenode_sent_bytes_total", "node=n0", "phase=gossip"] == 300
    assert found["edgenode_peer_faults_total", "kind=push", "node=n0", "peer=n1"] == 3
    assert found["edgenode_peer_faults_total", "kind=report", "node=controller", 'peer=n"1'] == 2
    assert found["edgenode_test_metric", "metric=auc", "node=n0"] == 0.25
    assert found["edgenode_test_metric", "metric=return", "node=n0"] == -187.5
    assert found["edgenode_messages_total", "node=n0"] == 7
    assert found["edgenode_state", "node=n0", "state=running"] == 1
    assert (found["edgenode_save_error_seconds", "node=n0"], found["edgenode_save_error_seconds", 'node=n"1']) == (
        2.5,
        0,
    )
    assert found["edgenode_up", 'node=n"1'] == 1
    assert (found["edgenode_members",], found["edgenode_consensus_distance",]) == (4, 0.5)


def test_relayed_bytes_have_labels_of_node_and_relay() -> None:
    found = samples(a_cluster())
    assert found["edgenode_relayed_bytes_total", "node=n1", "relay=controller"] == 900
    assert found["edgenode_relayed_connections", "node=n1", "relay=controller"] == 2
    assert found["edgenode_relayed_bytes_total", "node=n1", "relay=fra"] == 7
    assert found["edgenode_relay_up", "relay=fra"] == 0


def test_unknown_value_has_no_sample() -> None:
    found = samples(a_cluster(distance=None))
    assert ("edgenode_accuracy_ratio", "node=n0") in found
    assert ("edgenode_accuracy_ratio", 'node=n"1') not in found
    assert ("edgenode_joules_per_round", "node=n0") not in found
    assert ("edgenode_consensus_distance",) not in found


def test_node_metrics_have_the_same_names() -> None:
    of_node, of_cluster = samples(node_metrics(a_node(round=3))), samples(a_cluster())
    assert of_node["edgenode_round", "node=n0"] == 3
    assert {name for name, *_ in of_node} <= {name for name, *_ in of_cluster} | {"edgenode_accuracy_ratio"}


def test_every_metric_is_documented_and_named_by_convention() -> None:
    for family in text_string_to_metric_families(a_cluster().decode()):
        assert family.documentation.endswith(".")
        assert re.fullmatch(r"edgenode_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_ms", "_kb", "_percent"))


def test_grafana_dashboard_uses_only_existing_metrics() -> None:
    dashboard = json.loads(GRAFANA.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    names = {name for expression in asked for name in re.findall(r"edgenode_\w+", expression)}
    exist = {name for name, *_ in samples(a_cluster())} | {"edgenode_loss", "edgenode_joules_per_round"}
    assert len(names) > 10
    assert names <= exist
