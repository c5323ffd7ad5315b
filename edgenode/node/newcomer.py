"""A process that is in no run yet: does what the controller orders until it has all that it starts with.

1. The newest order counts, and ends the work on the one before.
2. Sponsor: the run is under way. It tests that it reaches all members, fetches the sponsor's model, and reports
   `Fetched`. In a run of exchanges it fetches nothing yet.
3. Welcome: it is a member. If it joins a run of exchanges, the members wait for it when the exchange begins that it
   starts with. Each of them then has a copy of what all have alike (`common_copy`). It fetches that of one member, and
   believes it if most members have the same. Else it goes on to the next one. If most have no common one, it ends.
4. Restart: the others have resumed, or are about to. It starts again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import assert_never

import structlog
from safetensors import SafetensorError
from safetensors.numpy import load

from edgenode.core.protocol.orders import Abort, Fetched, Restart, Sponsor, Welcome
from edgenode.core.protocol.plan.newcomers import is_confirmed, members_before
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import Diverged, PeerRestarted, RemoteProtocolError, TransportError
from edgenode.net.control_client import ControlLink
from edgenode.net.peer_calls import fetch_model, has_model, probe
from edgenode.net.relay_client import ask
from edgenode.net.retry import Backoff, Outage, retry
from edgenode.node.common_copy import digest_of, read_copy
from edgenode.node.first_state import StartPoint
from edgenode.node.local_node import LocalNode
from edgenode.node.model_server import check_numbers
from edgenode.storage.checkpoints import Arrays

log = structlog.get_logger()

_FETCH_S = 600.0
_CONFIRM_S = 60.0
_PROBE_S = 5.0
_RETRY_S = 2.0
_COPY_AGAIN_S = 0.5
_FIRST_LOG_S = 1.0
_BACKOFF = Backoff(initial_s=0.1, max_s=1.0, jitter_s=0.1)

NewcomersOrder = Sponsor | Welcome | Restart | Abort


class Newcomer:
    """A process from its first order to its start.

    Attributes:
        orders: the orders that the controller sends it.
        starts: the point at which it starts, once it has all that it needs.
        is_member: it is welcomed. It needs no controller to start.
    """

    def __init__(self, local: LocalNode, link: ControlLink) -> None:
        self.orders: asyncio.Queue[NewcomersOrder] = asyncio.Queue()
        self.starts: asyncio.Queue[StartPoint] = asyncio.Queue()
        self.is_member = False
        self._local, self._link = local, link
        self._model: Arrays | None = None  # z and the shared state of the last sponsor

    async def run(self) -> None:
        """Follow the newest order until cancelled.

        Raises:
            PeerRestarted: the others have resumed without this process, or are about to.
            Diverged: training diverged at a member, and the run ends.
            RemoteProtocolError: most members have no common copy.
        """
        order = await self.orders.get()
        while True:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._follow(order), name=f"newcomer: {type(order).__name__}")
                order = await self.orders.get()
                work.cancel()

    async def _follow(self, order: NewcomersOrder) -> None:
        self.is_member = isinstance(order, Welcome)
        match order:
            case Sponsor():
                await self._meet_members(order)
            case Welcome():
                self.starts.put_nowait(await self._start(order))
            case Restart(reason):
                raise PeerRestarted(reason)
            case Abort(reason):
                raise Diverged(reason)
            case _:
                assert_never(order)

    # --- before it is a member ----------------------------------------------------------------------

    async def _meet_members(self, sponsor: Sponsor) -> None:
        """Reach all members, and fetch the model of one if that is possible now. Try until it works."""
        while True:
            try:
                if not self._local.joins_exchanges:
                    await self._fetch_model(sponsor)
                await self._reach(sponsor)
            except (TransportError, RemoteProtocolError, SafetensorError) as exc:
                log.warning("cannot join yet", sponsor=sponsor.address, reason=str(exc))
                await asyncio.sleep(_RETRY_S)
            else:
                self._link.report(Fetched())
                return

    async def _fetch_model(self, sponsor: Sponsor) -> None:
        raw = await self._fetch(sponsor.name, sponsor.address, self._local.model_bytes)
        model = load(raw)
        check_numbers(model)
        self._model = model
        log.info("fetched the model", sponsor=sponsor.address, size=len(raw))

    async def _fetch(self, node: str, address: str, most: int) -> bytes:
        async def fetch(address: str) -> bytes:
            return await fetch_model(address, self._local.identity, most, _FETCH_S, node=node)

        return await ask(node, (address,), self._link, self._local.identity.security, fetch)

    async def _reach(self, sponsor: Sponsor) -> None:
        members = dict(zip(sponsor.names, sponsor.others, strict=False))
        answers = await asyncio.gather(*(self._reaches(node, address) for node, address in members.items()))
        if not all(answers):
            unreached = [address for address, answer in zip(members.values(), answers, strict=True) if not answer]
            raise TransportError(f"cannot reach {', '.join(unreached)}")

    async def _reaches(self, node: str, address: str) -> bool:
        identity = self._local.identity

        async def call(address: str) -> None:
            if await probe(address, identity, _PROBE_S, node) is None:
                raise TransportError("it does not answer")

        with suppress(TransportError):
            await ask(node, (address,), self._link, identity.security, call)
            return True
        return False

    # --- as a member --------------------------------------------------------------------------------

    async def _start(self, welcome: Welcome) -> StartPoint:
        """The point at which the node starts, with what it joins a run under way with."""
        plan, t = welcome.plan, welcome.round
        if t == plan.records[0].start:  # if all resume, the model of a run that was under way before does not count
            return StartPoint(plan, t)
        if self._local.joins_exchanges:
            return StartPoint(plan, t, await self._common_copy(plan, t))
        return StartPoint(plan, t, self._model)

    async def _common_copy(self, plan: Plan, t: int) -> Arrays:
        """The copy of a member of round t that most members have. Wait until they are there.

        Raises:
            RemoteProtocolError: there is none.
        """
        members, addresses = members_before(plan, t), {m.node: m.address for m in plan.at(t).members}
        outage = _outage("waiting for the members")
        log.info("joining when an exchange begins", at_round=t, members=list(members))
        left = list(members)
        while left:
            for member in tuple(left):
                try:
                    data = await self._fetch(member, addresses[member], 2 * self._local.model_bytes)
                    copy = read_copy(data, t)
                    alike = await self._confirm(copy, {node: addresses[node] for node in members if node != member})
                except TransportError as exc:
                    outage.note(str(exc))
                except RemoteProtocolError as exc:
                    log.warning("refused the copy of a member", member=member, reason=str(exc))
                    left.remove(member)
                else:
                    of = len(members)
                    log.info("fetched the model", sponsor=addresses[member], size=len(data), alike=f"{alike} of {of}")
                    return copy
            await asyncio.sleep(_COPY_AGAIN_S)
        raise RemoteProtocolError(f"cannot join in round {t}: no copy of {', '.join(members)} is that of most of them")

    async def _confirm(self, copy: Arrays, others: Mapping[str, str]) -> int:
        """Ask the other members whether they have this copy, until that is decided. Return how many have it.

        Args:
            others: their addresses.

        Raises:
            RemoteProtocolError: too many have another one.
        """
        digest, count, alike, differ = digest_of(copy), 1 + len(others), 1, 0
        async with asyncio.TaskGroup() as group:
            votes = [
                group.create_task(self._has_copy(node, address, digest), name=f"vote of {node}")
                for node, address in others.items()
            ]
            for vote in asyncio.as_completed(votes):
                has_it = await vote
                alike, differ = alike + has_it, differ + (not has_it)
                if is_confirmed(alike, count) or not is_confirmed(count - differ, count):
                    break
            for task in votes:
                task.cancel()
        if not is_confirmed(alike, count):
            raise RemoteProtocolError(f"{differ} of {count} members have another one")
        return alike

    async def _has_copy(self, node: str, address: str, digest: str) -> bool:
        """Return whether a member has this copy, once it answers."""
        outage = _outage("waiting for a member")

        async def call(address: str) -> bool:
            return await has_model(address, self._local.identity, digest, _CONFIRM_S, node)

        security = self._local.identity.security
        return await retry(lambda: ask(node, (address,), self._link, security, call), outage, _BACKOFF)


def _outage(event: str) -> Outage:
    return Outage(lambda since_s, why: log.info(event, since_s=since_s, why=why), _FIRST_LOG_S)
