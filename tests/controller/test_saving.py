"""The controller waits for a free file descriptor to save, and does not end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgenode.controller import saving
from edgenode.controller.saving import save_when_possible
from edgenode.core.protocol.events import Persist
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError, NoFreeFile
from edgenode.storage.controller_state import ControllerState
from tests.net.descriptors import none_free

PERSIST = Persist(1, 0, create_plan("home", [Member("n0")], Schedule((GraphSpec("a"),), 1)))


async def test_save_waits_for_a_file_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_AGAIN_S", 0.01)
    state = ControllerState(tmp_path, "run")
    with none_free():
        work = asyncio.create_task(save_when_possible(state, PERSIST))
        await asyncio.sleep(0.2)
        assert not work.done()
    await asyncio.wait_for(work, 10)
    assert state.load() == PERSIST


async def test_another_error_of_the_disk_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught:
        await save_when_possible(ControllerState(tmp_path / "file" / "state", "run"), PERSIST)
    assert not isinstance(caught.value, NoFreeFile)
