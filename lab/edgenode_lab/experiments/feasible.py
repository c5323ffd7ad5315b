"""Refuses the rows of an experiment that cannot run, all at once, before any runs."""

from __future__ import annotations

from collections.abc import Sequence

from edgenode import factory
from edgenode.errors import ConfigError, GraphError
from edgenode_lab.experiments.runner import Trial


def check_rows(all_trials: Sequence[Trial]) -> None:
    """Refuse rows whose graph or algorithm cannot run, before any runs.

    Raises:
        ConfigError: the text has every such row, and why.
    """
    wrong: dict[str, str] = {}
    for row, config in {trial.row.labels: (trial.row, trial.config) for trial in all_trials}.values():
        nodes = tuple(sorted(f"node-{i}" for i in range(config.run.nodes)))
        try:
            spec = factory.algorithm_spec(config)
            factory.schedule(config).with_last_from(spec.training_rounds).check(nodes)
        except (ConfigError, GraphError) as exc:
            wrong[" | ".join(row.labels)] = str(exc)
    if wrong:
        raise ConfigError("\n".join(f"row {row!r}: {why}" for row, why in wrong.items()))
