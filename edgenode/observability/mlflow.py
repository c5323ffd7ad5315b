"""MLflow: an experiment for the cluster, and in it a run for each node."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from edgenode.config.schema import Config

_MISSING = "RESOURCE_DOES_NOT_EXIST"


class MLflow:
    """Uses the server or database at a tracking URI, and ignores the MLflow state of this process.

    Args:
        ids: the run for each node. It continues these, and adds those that it begins.
    """

    def __init__(self, uri: str, config: Config, ids: dict[str, str]) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._config, self._ids = config, ids
        self._experiment = ""
        self._runs: dict[str, str] = {}  # those of this process

    def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
        run = self._runs[node] if node in self._runs else self._continued(node) or self._begin(node)
        now_ms = int(1000 * time.time())
        self._client.log_batch(run, metrics=[Metric(name, value, now_ms, t) for name, value in values.items()])

    def close(self, ended_well: bool) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "FINISHED" if ended_well else "FAILED")

    def _continued(self, node: str) -> str:
        """Continue the run of a node. Return its id, or "" if there is none any more."""
        if not (run := self._ids.get(node, "")):
            return ""
        try:
            known = self._client.get_run(run)
        except MlflowException as exc:
            if exc.error_code != _MISSING:
                raise
            return ""
        if known.info.lifecycle_stage != "active":  # it was deleted
            return ""
        self._client.update_run(run, status="RUNNING")
        self._runs[node] = run
        return run

    def _begin(self, node: str) -> str:
        cluster = self._config.run.cluster
        if not self._experiment:
            known = self._client.get_experiment_by_name(cluster)
            self._experiment = known.experiment_id if known else self._client.create_experiment(cluster)
        run: str = self._client.create_run(self._experiment, run_name=node).info.run_id
        self._runs[node] = self._ids[node] = run
        params = [Param(key, str(value)) for key, value in self._config.as_keys().items()]
        self._client.log_batch(run, params=params)
        return run
