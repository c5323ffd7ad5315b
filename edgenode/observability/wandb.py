"""Weights & Biases: a group for the cluster, and in it a run for each node."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
import wandb

from edgenode.config.schema import Config

log = structlog.get_logger()


class WandB:
    """Writes runs into a folder, for `wandb sync`. WANDB_MODE=online sends them at once.

    Args:
        ids: the run for each node. It continues these, and adds those that it begins.
    """

    def __init__(self, project: str, config: Config, folder: Path, ids: dict[str, str]) -> None:
        self._project, self._config, self._folder, self._ids = project, config, folder, ids
        self._runs: dict[str, Any] = {}

    def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
        run = self._runs[node] if node in self._runs else self._begin(node)
        run.log(dict(values), step=t)

    def close(self, ended_well: bool) -> None:
        for run in self._runs.values():
            run.finish(exit_code=0 if ended_well else 1)

    def _begin(self, node: str) -> Any:
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True)
        run = self._runs[node] = wandb.init(
            id=self._ids.setdefault(node, secrets.token_hex(8)), resume="allow",
            project=self._project, group=self._config.run.cluster, name=node, config=self._config.as_keys(),
            dir=self._folder, mode=None if "WANDB_MODE" in os.environ else "offline", reinit="create_new",
            settings=quiet,
        )  # fmt: skip
        log.info("tracking", node=node, to=run.dir)
        return run
