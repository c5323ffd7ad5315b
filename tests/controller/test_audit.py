"""What operators request is recorded with its outcome, also if they hang up, and if the disk fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgenode.config.schema import Config
from edgenode.controller.audit import Audit
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.controller_process import Controller
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import MAX_GRAPHS
from edgenode.errors import ConfigError
from edgenode.storage.audit_log import AuditLog
from edgenode.storage.run_history import NAME

BY = "operator anna"


def entries(folder: Path) -> list[tuple[str, str, str | None]]:
    return [(entry["who"], entry["request"], entry["outcome"]) for entry in AuditLog(folder).entries()]


async def test_outcome_is_recorded(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    async with audit.noting(BY, "stop") as conclude:
        assert entries(tmp_path) == [(BY, "stop", None)]
        conclude("round 42")
    with pytest.raises(ConfigError):
        async with audit.noting(BY, "evict n9"):
            raise ConfigError("n9 is not a member")
    async with audit.noting(BY, "revoke node n1"):
        pass
    assert [outcome for *_, outcome in entries(tmp_path)] == ["round 42", "refused: n9 is not a member", "done"]


async def test_client_that_hangs_up_leaves_an_entry(tmp_path: Path) -> None:
    async def stop() -> None:
        async with Audit(tmp_path).noting(BY, "stop"):
            await asyncio.Event().wait()

    task = asyncio.create_task(stop())
    while not entries(tmp_path):  # noqa: ASYNC110 - the entry is on the disk
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert entries(tmp_path) == [(BY, "stop", None)]


async def test_request_is_carried_out_without_a_disk(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database " * 20)
    done = []
    async with Audit(tmp_path).noting(BY, "stop"):
        done.append("stop")
    assert done == ["stop"]


GRAPHS = (GraphSpec("a"),)
REQUESTS: list[tuple[Callable[[Any], Any], str, str]] = [
    (lambda run: run.stop(BY), "stop", "refused: "),
    (lambda run: run.evict(BY, "n9", force=True), "evict n9, with force", "refused: "),
    (lambda run: run.rotate(BY, GRAPHS * 2, Period(6, "epochs")), "use graph a, a, every 6ep", "refused: "),
]


@pytest.mark.parametrize(("request_", "words", "outcome"), REQUESTS)
async def test_every_request_to_the_controller_is_recorded(
    tmp_path: Path, request_: Callable[[Any], Any], words: str, outcome: str
) -> None:
    controller = Controller(ControllerOptions(Config(), "127.0.0.1:0", tmp_path, insecure=True))
    owner = asyncio.create_task(controller._handle_events())
    with pytest.raises(ConfigError):  # no run has started
        await request_(controller.operator_service)
    await controller._end(owner)
    ((who, request, recorded),) = entries(tmp_path)
    assert (who, request) == (BY, words)
    assert str(recorded).startswith(outcome)


async def test_rotation_of_too_many_graphs_is_refused(tmp_path: Path) -> None:
    controller = Controller(ControllerOptions(Config(), "127.0.0.1:0", tmp_path, insecure=True))
    with pytest.raises(ConfigError, match=f"a rotation has at most {MAX_GRAPHS} graphs, not 9001"):
        await controller.operator_service.rotate(BY, GRAPHS * 9001, Period(1))
