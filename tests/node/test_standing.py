"""Which keys a node lets in: those of its plan, and others if the controller vouches for them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import TransportError
from edgenode.net import vouching
from edgenode.net.tls import MutualTls
from edgenode.net.vouching import Vouching
from edgenode.node.standing import Standing
from edgenode.security.authority import Authority
from edgenode.security.subject import Subject
from tests.net.test_credentials import served

N0, N1, N9 = (Subject("node", name) for name in ("n0", "n1", "n9"))
OLD, NEW = "a" * 64, "b" * 64
FIRST = create_plan("home", [Member("n0", key=OLD), Member("n1", key=OLD)], Schedule((GraphSpec("complete"),), 1))
LEFT = FIRST.extend(FIRST.successor(5, members=(Member("n0", key=OLD),), handoffs=(("n1", "n0"),)))


class Asked(Authority):
    """An authority that notes the keys that it is asked about."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "home")
        self.keys: list[str] = []

    def vouches_for(self, subject: Subject, key_id: str) -> bool:
        self.keys.append(key_id)
        return super().vouches_for(subject, key_id)


@pytest.fixture
def authority(tmp_path: Path) -> Asked:
    return Asked(tmp_path / "authority")


@pytest.fixture
async def controller(authority: Asked) -> AsyncIterator[Vouching]:
    own = MutualTls(authority.make(N0), lambda subject, key_id: True)
    async with served(authority) as target:
        yield Vouching(own, lambda: target)


async def test_newcomer_is_let_in_if_the_controller_has_registered_its_key(
    authority: Asked, controller: Vouching, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "authority", tmp_path / "copy")
    unknown = Authority(tmp_path / "copy", "home").make(N9).key_id
    standing = Standing("n0", 8, controller)
    for known in (False, True):
        assert not await standing.admits(N9, unknown)
        assert not await standing.admits(N1, authority.make(N9).key_id)  # under the name of another
        assert await standing.admits(N9, authority.make(N9).key_id)
        if not known:
            standing.welcomed(LEFT, 5)


async def test_plan_decides_about_its_members_and_asks_nobody() -> None:
    standing = Standing("n0", 8, Vouching(MutualTls(None, lambda subject, key_id: True), lambda: ""))  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="cannot be asked about the key of node n1: none is known yet"):
        await standing.admits(N1, OLD)
    for plan in (FIRST, LEFT):  # who has left may still have to push
        standing.welcomed(plan, 5)
        assert await standing.admits(N1, OLD)
    with pytest.raises(TransportError, match="cannot be asked"):
        await standing.admits(N1, NEW)
    standing.welcomed(FIRST, 5)
    assert not await standing.admits(N1, NEW)
    assert await standing.admits(Subject("controller", "controller"), NEW)


async def test_with_fixed_peers_each_certificate_of_the_authority_counts() -> None:
    assert await Standing("n0", 8, None).admits(N9, NEW)


async def test_calls_with_one_key_cost_the_controller_one_question(
    authority: Asked, controller: Vouching, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = Standing("n0", 8, controller)
    for _ in range(2):
        assert not any(await asyncio.gather(*(standing.admits(N9, NEW) for _ in range(100))))
    assert authority.keys == [NEW]
    monkeypatch.setattr(vouching, "_COUNTS_S", 0.0)
    await asyncio.sleep(1.1)
    assert not await standing.admits(N9, NEW)
    assert authority.keys == [NEW, NEW]


async def test_number_of_questions_and_of_waiting_calls_is_bounded(authority: Asked, controller: Vouching) -> None:
    standing = Standing("n0", 8, controller)
    calls = [standing.admits(N9, NEW) for _ in range(2 * vouching._MOST_CALLS)]
    refused = [a for a in await asyncio.gather(*calls, return_exceptions=True) if isinstance(a, TransportError)]
    assert len(refused) == vouching._MOST_CALLS
    keys = [f"{i:064x}" for i in range(2 * vouching._MOST_KEYS)]
    of_many = await asyncio.gather(*(standing.admits(N9, key) for key in keys), return_exceptions=True)
    assert len(authority.keys) <= vouching._MOST_KEYS
    assert {type(answer) for answer in of_many} == {bool, TransportError} and True not in of_many
