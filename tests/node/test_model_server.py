"""To whom a member gives what of its model, and when."""

from __future__ import annotations

import pytest

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.errors import NotYet, RemoteProtocolError
from edgenode.net.model_sender import Model
from edgenode.node.background import WorkerThread
from edgenode.node.initial_model import InitialModel
from edgenode.node.model_server import ModelServer

JOINS_AT = 7
MEMBERS = (Member("n0"), Member("n1"))
FIRST = create_plan("home", MEMBERS, factory.schedule(Config()))
PLAN = FIRST.extend(FIRST.successor(JOINS_AT, members=(*MEMBERS, Member("n9"))))


async def test_copy_is_for_those_that_join_in_its_exchange() -> None:
    worker, made = WorkerThread(), list[int]()

    def copy(t: int) -> Model:
        made.append(t)
        return Model(b"copy", f"digest of {t}")

    server = ModelServer(worker, lambda: b"model", lambda: JOINS_AT, copy=copy)

    async def served() -> list[str]:
        """The nodes that get a copy now."""
        found = []
        for node in ("n0", "n1", "n9", "stranger"):
            try:
                assert await server.model_for(node) == Model(b"copy", f"digest of {JOINS_AT}")
                found.append(node)
            except NotYet as exc:
                assert f"{node} joins in no exchange" in str(exc)
        return found

    try:
        for t, nodes in ((0, []), (JOINS_AT - 1, []), (JOINS_AT, ["n9"]), (JOINS_AT + 1, [])):
            await server.begins(PLAN, t)
            assert await served() == nodes
            server.round_ended(t - 1)
            assert await served() == nodes
    finally:
        worker.close()
    assert made == [JOINS_AT]


async def test_where_nodes_join_in_any_round_each_gets_the_model_of_now() -> None:
    worker, models, t = WorkerThread(), iter([b"first", b"second"]), 3
    server = ModelServer(worker, lambda: next(models), lambda: t)
    try:
        await server.begins(PLAN, JOINS_AT)
        assert (await server.model_for("n9")).data == (await server.model_for("n8")).data == b"first"
        server.round_ended(t)
        assert (await server.model_for("n9")).data == b"second"
    finally:
        worker.close()


async def test_node_whose_messages_are_masked_shows_no_model_of_now() -> None:
    """While it waits for the others, its model has what its message hides. The initial one is known to all."""
    worker, t = WorkerThread(), 0
    server = ModelServer(worker, None, lambda: t, InitialModel.of(FIRST, b"initial"))
    try:
        assert (await server.model_for("n1")).data == b"initial"
        t = 9
        with pytest.raises(RemoteProtocolError, match="this node shows no model"):
            await server.model_for("n1")
    finally:
        worker.close()
