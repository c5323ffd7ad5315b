"""Brings a node to a plan with fixed peers and no controller, and back to one when a peer restarts.

1. Every node meets all others again and again. Each answers with its process, what it can resume from, how much data
   it has, and its company: a digest over the names and processes of all nodes, as it has met them itself.
2. A node begins when the company of each answer is its own. So all that begin have the same answers, and derive the
   same plan from them: a new one, or the newest round that all have saved.
3. A process takes part once. When another process answers at the address of a peer, the peer has died and is back.
   This node then ends its part, and begins again at step 1 as another process, from its checkpoints. All others do so
   too, because each is met by the process that is back, or by one that has begun again.
4. Until all have met, nobody begins. So it does not matter how many die, or when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import structlog

from edgenode.core import canonical
from edgenode.core.topology.period import Epoch
from edgenode.errors import ConfigError, Diverged, PeerRestarted, TransportError
from edgenode.net.limited_log import limited
from edgenode.net.peer_calls import Met, meet, probe
from edgenode.net.peer_server import PeerServer
from edgenode.net.retry import Outage
from edgenode.net.wire import Identity, name_conflict
from edgenode.node.agreed_plan import agreed_plan
from edgenode.node.background import in_background
from edgenode.node.first_state import StartPoint
from edgenode.node.local_node import LocalNode
from edgenode.node.node_options import NodeOptions

log = structlog.get_logger()

_FIRST_LOG_S = 1.0
_AGAIN_S = 0.2
_AGAIN_PER_PEER_S = 0.02  # so that many nodes do not keep each other busy
_PROBE_S = 5.0


@dataclass(frozen=True)
class Agreement:
    """The facts that all fixed peers agree on.

    Attributes:
        addresses: host:port of each other node, by its name.
        processes: the process of each other node, by its name.
    """

    start: StartPoint
    addresses: Mapping[str, str]
    processes: Mapping[str, str]


async def agree_with_peers(
    options: NodeOptions, local: LocalNode, server: PeerServer, show_wait: Callable[[str], None]
) -> Agreement:
    """Meet all fixed peers, and derive the plan from their answers, as each of them does.

    The addresses may include this node's own, and several of one peer: a process is known by its identity.

    Raises:
        ConfigError: the peers are not the nodes of the run, or two have one name.
        DigestMismatch: a peer is of another run.
        Diverged: a peer began before this node, and training diverged there.
        TransportError: a peer did not answer for ``wait_s``, or did not meet all others.
    """
    server.data = local.data
    meeting = _Meeting(options, local, server, show_wait)
    async with in_background(server.first_mismatch(), "mismatches"), in_background(_end_at_abort(server), "aborts"):
        await meeting.run()
    return meeting.agreement()


async def watch_for_restarts(server: PeerServer, identity: Identity, agreement: Agreement) -> NoReturn:
    """Watch for a peer that has died and is back. Its address decides, so another process of its name has no effect.

    Raises:
        PeerRestarted: there is one.
    """
    while True:
        stranger = await server.next_stranger()
        name, address = stranger.node, agreement.addresses[stranger.node]
        there = await probe(address, identity, _PROBE_S)
        if there is not None and there.node == name and there.process != agreement.processes[name]:
            raise PeerRestarted(f"{name} at {address} has restarted")
        event = "another process has the name of a peer, and is not at its address"
        limited(log.warning, event, name, address, node=name, address=address)


async def _end_at_abort(server: PeerServer) -> NoReturn:
    _, abort = await server.next_abort()
    raise Diverged(abort.reason)


class _Meeting:
    """Meets all peers until all have met."""

    def __init__(
        self, options: NodeOptions, local: LocalNode, server: PeerServer, show_wait: Callable[[str], None]
    ) -> None:
        self._options, self._local, self._server, self._show_wait = options, local, server, show_wait
        self._met: dict[str, Met] = {}  # by address
        self._agreed = asyncio.Event()

    async def run(self) -> None:
        """Return when all nodes have met the same processes."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep_meeting(target), name="meet") for target in self._options.peers]
            await self._agreed.wait()
            for task in tasks:
                task.cancel()

    def agreement(self) -> Agreement:
        """Return the facts that follow from the answers, as at every other node.

        Raises:
            ConfigError: some nodes have checkpoints and others have none.
            GraphError: no checkpoint round is common to all, or the graphs cannot carry the run.
        """
        name = self._options.name
        # of several addresses of one peer, the one that is listed first, whichever answered first
        listed = [(target, self._met[target]) for target in reversed(self._options.peers)]
        met = {m.identity.node: (target, m) for target, m in listed if m.identity.node != name}
        saved = {name: self._local.saved, **{node: (m.saved, m.plan) for node, (_, m) in met.items()}}
        epoch = Epoch.of([self._local.data, *(m.data for _, m in met.values())])
        addresses = {node: target for node, (target, _) in met.items()}
        processes = {node: m.identity.process for node, (_, m) in met.items()}
        self._server.take_part_with(processes)
        config = self._options.config
        keys = {**processes, name: self._local.identity.process} if config.algorithm.definition.masked else {}
        return Agreement(StartPoint(*agreed_plan(config, saved, epoch, keys)), addresses, processes)

    async def _keep_meeting(self, target: str) -> None:
        outage = Outage(lambda _, why: self._waiting(target, why), _FIRST_LOG_S)
        loop, wait_s = asyncio.get_running_loop(), self._options.wait_s
        deadline = loop.time() + wait_s
        while True:
            met = await self._meet(target)
            await self._refuse_second_of_one_name(target, met)
            if self._agreed.is_set():
                return  # a later answer is not part of what all agree on
            if self._met.get(target) != met:
                deadline = loop.time() + wait_s
            self._met[target] = met
            if self._company() and all(m.company == self._company() for m in self._met.values()):
                self._agreed.set()
            self._server.company = self._company()
            if met.company == self._server.company:
                outage.end()
            elif loop.time() > deadline:
                raise TransportError(f"{met.identity.node} at {target} has not met all other nodes in {wait_s:g} s")
            else:
                outage.note("it has not met all other nodes yet")
            await asyncio.sleep(_AGAIN_S + _AGAIN_PER_PEER_S * len(self._options.peers))

    async def _meet(self, target: str) -> Met:
        return await meet(target, self._local.identity, self._waiting, self._options.wait_s)

    def _waiting(self, target: str, why: str) -> None:
        self._show_wait(f"waiting for the peer at {target}: {why}")
        log.info("waiting for a peer", peer=target, why=why)

    async def _refuse_second_of_one_name(self, target: str, met: Met) -> None:
        """Two addresses may be of one process. If they are of two, one may have died since it was met.

        Raises:
            ConfigError: two live processes have one name.
        """
        name, process = met.identity.node, met.identity.process
        if name == self._options.name and process != self._local.identity.process:
            raise name_conflict(name, target)
        for other, earlier in list(self._met.items()):
            if earlier.identity.node != name or earlier.identity.process == process or other == target:
                continue
            again = await self._meet(other)
            if again.identity.node == name and again.identity.process != process:
                first, second = sorted((other, target), key=self._options.peers.index)
                raise ConfigError(
                    f"the peers at {first} and {second} have one node id, {name!r}: give one of the two another --name"
                )

    def _company(self) -> str:
        """The digest of all processes that this node has met, itself included. Empty until each address has answered.

        Raises:
            ConfigError: the addresses are not of as many nodes as the run has.
        """
        if len(self._met) < len(self._options.peers):
            return ""
        processes = {m.identity.node: m.identity.process for m in self._met.values()}
        processes[self._options.name] = self._local.identity.process
        if len(processes) != (nodes := self._options.config.run.nodes):
            raise ConfigError(
                f"run.nodes = {nodes}, but this node and its --peers are {len(processes)}: "
                f"{', '.join(sorted(processes))}; on every node, list the addresses of all nodes, or of all others"
            )
        return canonical.digest(canonical.canonical(processes))
