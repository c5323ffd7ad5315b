"""The intact checkpoints, from which a node can resume."""

from __future__ import annotations

import shutil

import structlog

from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import CheckpointError, ConfigError, OtherRun
from edgenode.node.node_options import NodeOptions
from edgenode.storage.checkpoints import CheckpointStore

log = structlog.get_logger()


def resumable(store: CheckpointStore, options: NodeOptions) -> tuple[frozenset[int], Plan | None]:
    """Return the rounds of the checkpoints that the run may resume from, and the plan of the newest.

    Raises:
        ConfigError: the checkpoints are of another run, or there is none of the requested round.
    """
    if options.fresh and store.folder.exists():
        shutil.rmtree(store.folder)
    chosen = options.resume_from
    try:
        if chosen is not None:
            return frozenset({chosen}), store.load(chosen).plan
        rounds, plan, damage = store.scan()
    except OtherRun as exc:
        raise ConfigError(f"{exc}; discard it with --fresh, or choose another --state-dir") from exc
    except CheckpointError as exc:
        if chosen is None:
            raise
        saved = ", ".join(map(str, sorted(store.rounds()))) or "none"
        raise ConfigError(f"--resume-from {chosen}: {exc}; there are checkpoints of these rounds: {saved}") from exc
    for reason in damage:
        log.warning("skipping a checkpoint", reason=reason)
    if damage and not rounds:
        log.warning("no intact checkpoint: joining without one", folder=str(store.folder))
    return rounds, plan
