"""Finds this machine's record of a run that is over, for commands that find no controller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from edgenode.cli.launched import ended_here
from edgenode.errors import CheckpointError
from edgenode.observability.reply_words import to_show_run
from edgenode.security.local import CONTROLLER_FOLDER
from edgenode.storage.filesystem import default_state_dir
from edgenode.storage.run_history import RunHistory


def past_run(cluster: str | None, credentials: Path | None) -> str:
    """The last run of the cluster that a controller on this machine recorded, and the command that shows it.

    Args:
        cluster: None is any.
        credentials: the operator's. A controller keeps them in its state folder.

    Returns:
        A sentence, or "" if there is no such run, or if it has not ended.
    """
    found = [(folder, run) for folder in _folders(cluster, credentials) for run in _newest(folder, cluster)]
    if not found:
        return ""
    folder, run = max(found, key=lambda pair: float(pair[1]["began"]))
    if run["ended"] is None:
        return ""
    when = datetime.fromtimestamp(run["ended"]).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"the last run of {run['cluster']} on this machine ended {when} ({run['outcome']}): {to_show_run(folder)}"


def past_launch(cluster: str | None) -> str:
    """How the last launch that was started in this folder has ended, and the command that resumes it or shows its run.

    Args:
        cluster: None is any.

    Returns:
        A sentence, or "" if there is none, or if its results are deleted.
    """
    launch = ended_here()
    if launch is None or cluster not in (None, launch.cluster) or not launch.credentials.exists():
        return ""
    folder, how, outcome = launch.credentials.parent, "before its run began", ""
    with suppress(CheckpointError):
        for run in RunHistory(folder).runs()[-1:]:
            outcome = run["outcome"] or "interrupted"
            reached = max((moment["round"] for moment in RunHistory(folder).curve(run["id"])), default=0)
            how = f"{outcome} in round {reached}"
    then = f"to look at it: {to_show_run(folder)}" if outcome == "done" else f"to resume it: {launch.again}"
    return f"the launch in this folder has ended ({how}); {then}; for another cluster, pass --cluster NAME"


def _folders(cluster: str | None, credentials: Path | None) -> Iterator[Path]:
    """Return where a controller on this machine can have kept its state."""
    if credentials is not None:
        yield credentials.parent
    if named := os.environ.get("EDGENODE_STATE_DIR"):
        yield Path(named)
    yield from default_state_dir(cluster or "", "").glob(CONTROLLER_FOLDER if cluster else f"*/{CONTROLLER_FOLDER}")


def _newest(folder: Path, cluster: str | None) -> list[dict[str, Any]]:
    with suppress(CheckpointError):
        return [run for run in RunHistory(folder).runs() if cluster in (None, run["cluster"])][-1:]
    return []
