"""How a process becomes a member of a run: it serves, finds the others, agrees on the plan, and then takes part.

Two ways lead to a plan. With a controller, the controller founds the run and welcomes everyone. With a fixed list
of peers and none, every node asks all others who they are and derives the same record from the sorted answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from edgenode import build, results
from edgenode.config import Config
from edgenode.core.messages import Joined, RecordOffered, Welcome
from edgenode.core.plan import Member, Plan, found, resume
from edgenode.daemon import Daemon, Outcome, Worker
from edgenode.errors import CheckpointError, ConfigError, first_cause
from edgenode.net import peers
from edgenode.net.control import ControlLink
from edgenode.net.discovery import Discovery, Service, interfaces_for
from edgenode.net.peers import PeerServer, meet
from edgenode.net.rpc import address_towards, join_address, serving, split_address
from edgenode.net.wire import PROTOCOL, Identity
from edgenode.store import Store

log = structlog.get_logger()

_FLUSH_S = 2.0


@dataclass(frozen=True)
class Options:
    """What the command line of ``edgenode run`` says.

    Attributes:
        peers: host:port of the others; empty to find them by mDNS.
        controller: "mdns", "none", or host:port.
        wait_s: how long to look for the controller, or for the peers, before giving up.
    """

    config: Config
    name: str
    listen: str
    peers: tuple[str, ...]
    controller: str
    state_dir: Path
    resume: bool = False
    wait_s: float = 300.0


class Membership:
    """One process on its way into a run, and through it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.config = options.config
        self.worker = Worker()
        self.store = Store(options.state_dir, self.config.digest())
        self.identity = Identity(self.config.run.cluster, options.name, self.config.digest())
        self.saved = self._saved()
        self.server = PeerServer(self.identity, self.saved)
        self.port = 0
        self.addresses: dict[str, str] = {}  # of fixed peers, as they answered
        self._discovery: Discovery | None = None
        self._daemon: Daemon | None = None
        self._welcome: asyncio.Future[Welcome] | None = None
        self._rounds_per_epoch = 1

    def _saved(self) -> tuple[frozenset[int], Plan | None]:
        """What there is to resume from; a new run does not overwrite an old one's checkpoints."""
        if self.options.resume:
            try:
                return self.store.offer()
            except CheckpointError as exc:
                raise ConfigError(str(exc)) from exc
        if rounds := self.store.rounds():
            raise ConfigError(
                f"{self.store.folder} holds a checkpoint of round {max(rounds)}: "
                "go on with --resume, or give another --state-dir"
            )
        return frozenset(), None

    async def run(self) -> dict[str, Any]:
        """From nothing to result.json.

        Raises:
            EdgenodeError: it could not join, or the run failed.
        """
        began = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                services = [(peers.SERVICE, self.server.add_to)]
                self.port = await stack.enter_async_context(serving(self.options.listen, services))
                self._rounds_per_epoch = await self.worker(self._load_data)
                log.info(
                    "listening", node=self.options.name, address=self._own_address(), cluster=self.config.run.cluster
                )
                if self.options.controller == "none":
                    plan, start = await self._found_among_peers()
                    daemon, outcome = await self._take_part(plan, start, None)
                else:
                    daemon, outcome = await self._join_controller(stack)
                return self._conclude(daemon, outcome, time.monotonic() - began)
        finally:
            self.worker.close()

    def _load_data(self) -> int:
        import torch

        from edgenode.tasks import models
        from edgenode.tasks.trainer import rounds_per_epoch

        torch.set_num_threads(self.config.run.threads)
        models.refuse_unknown(self.config.task.model)  # now, and not when everybody has come
        return rounds_per_epoch(build.task_settings(self.config), self.config.run.nodes)

    async def _take_part(self, plan: Plan, start: int, link: ControlLink | None) -> tuple[Daemon, Outcome]:
        self.server.identity = replace(self.identity, plan_digest=plan.records[0].digest)
        log.info("run begins", round=start, nodes=list(plan.latest.names), plan=plan.latest.digest[:12])
        trainer = await self.worker(self._build_trainer, plan)
        daemon = self._daemon = Daemon(
            self.config, self.options.name, trainer, plan, start, self.store,
            self.server, self.worker, link, self._candidates,
        )  # fmt: skip
        try:
            return daemon, await daemon.run()
        except BaseException as exc:
            daemon.fail(first_cause(exc))
            raise first_cause(exc) from exc

    def _build_trainer(self, plan: Plan) -> Any:
        from edgenode.tasks.trainer import build_trainer

        names = plan.records[0].names
        run = self.config.run
        device = _device(run.device)
        settings = build.task_settings(self.config)
        return build_trainer(settings, names.index(self.options.name), len(names), run.seed, device)

    def _candidates(self, peer: str) -> list[str]:
        """Where a peer may be: as it answered, as mDNS says now, as the plan says."""
        if peer in self.addresses:
            return [self.addresses[peer]]
        found = self._discovery.services("node").get(peer) if self._discovery is not None else None
        plan = self._daemon.plan if self._daemon is not None else None
        listed = [m.address for m in plan.latest.members if m.node == peer and m.address] if plan else []
        return list(dict.fromkeys([*(found.targets if found else ()), *listed]))

    def _own_address(self) -> str:
        return join_address(split_address(self.options.listen)[0], self.port)

    # --- with a controller --------------------------------------------------------------------------

    async def _join_controller(self, stack: AsyncExitStack) -> tuple[Daemon, Outcome]:
        if "mdns" in (self.options.controller, *(self.options.peers or ("mdns",))):
            self._discovery = await stack.enter_async_context(self._announced())
        self._welcome = asyncio.get_running_loop().create_future()
        link = ControlLink(self.identity, self._find_controller, self._joined, self._ordered, self._say_waiting)
        async with _alongside(link.run(), "link to the controller"):
            await self._until_connected(link)
            welcome = await self._welcome
            try:
                return await self._take_part(welcome.plan, welcome.round, link)
            finally:
                await link.flush(_FLUSH_S)

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[Discovery]:
        async with Discovery(self.config.run.cluster, interfaces_for(split_address(self.options.listen)[0])) as found:
            await found.announce(Service("node", self.config.run.cluster, self.options.name, (), self.port, PROTOCOL))
            yield found

    async def _until_connected(self, link: ControlLink) -> None:
        try:
            await asyncio.wait_for(link.connected.wait(), self.options.wait_s)
        except TimeoutError:
            raise ConfigError(self._why_no_controller()) from None

    def _why_no_controller(self) -> str:
        if self.options.controller != "mdns":
            return f"no controller answers at {self.options.controller} (waited {self.options.wait_s:g} s)"
        assert self._discovery is not None
        for service in self._discovery.services("controller").values():
            return f"the controller announced at {', '.join(service.targets)} does not answer"
        return self._discovery.not_found("controller", None, self.options.wait_s)

    async def _find_controller(self) -> str:
        if self.options.controller != "mdns":
            return self.options.controller
        assert self._discovery is not None
        service = await self._discovery.wait("controller", timeout_s=10.0)
        return service.targets[0]

    def _joined(self, controller: str) -> Joined:
        """What to say to the controller: a newcomer, someone to be resumed, or a member that lost sight of it."""
        host = split_address(self.options.listen)[0]
        if host in ("", "0.0.0.0", "::"):
            host = address_towards(controller)
        rounds, plan = self.saved
        running = self._daemon is not None
        if self._daemon is not None:
            plan = self._daemon.plan
        return Joined(
            self.options.name,
            join_address(host, self.port),
            self.config.digest(),
            self._rounds_per_epoch,
            rounds,
            plan,
            running,
        )

    def _ordered(self, order: Welcome | RecordOffered) -> None:
        if isinstance(order, RecordOffered):
            if self._daemon is not None:
                self._daemon.post(order)
        elif self._welcome is not None and not self._welcome.done():
            self._welcome.set_result(order)

    def _say_waiting(self, present: tuple[str, ...], missing: int) -> None:
        log.info("waiting for nodes", present=list(present), missing=missing)

    # --- with a fixed list of peers -----------------------------------------------------------------

    async def _found_among_peers(self) -> tuple[Plan, int]:
        """Every node computes the same plan from the same answers."""
        me = (self.identity, *self.saved)
        asked = [meet(target, self.identity, self._say_silent, self.options.wait_s) for target in self.options.peers]
        async with _alongside(self.server.strangers(), "strangers"), asyncio.TaskGroup() as group:
            tasks = [group.create_task(call, name="meet") for call in asked]
        answers = [me]
        for target, task in zip(self.options.peers, tasks, strict=True):
            identity, rounds, plan = task.result()
            if identity.node == self.options.name:
                if split_address(target)[1] != self.port:
                    raise ConfigError(
                        f"the peer at {target} has our own name {identity.node!r}: give it another --name"
                    )
                continue
            self.addresses[identity.node] = target
            answers.append((identity, rounds, plan))
        if len(answers) != self.config.run.nodes:
            names = ", ".join(sorted(identity.node for identity, *_ in answers))
            raise ConfigError(f"run.nodes = {self.config.run.nodes}, but --peers makes {len(answers)}: {names}")
        members = [Member(identity.node) for identity, *_ in answers]
        offers = {identity.node: (rounds, plan) for identity, rounds, plan in answers if plan is not None}
        if not offers:
            return found(self.config.run.cluster, members, build.schedule(self.config, self._rounds_per_epoch)), 0
        if absent := sorted({m.node for m in members} - set(offers)):
            raise ConfigError(f"cannot resume: no checkpoint on {', '.join(absent)}")
        return resume(members, offers)

    def _say_silent(self, target: str, why: str) -> None:
        log.info("waiting for a peer", peer=target, why=why)

    # --- the end ------------------------------------------------------------------------------------

    def _conclude(self, daemon: Daemon, outcome: Outcome, wall_s: float) -> dict[str, Any]:
        folder = self.options.state_dir
        folder.mkdir(parents=True, exist_ok=True)
        daemon.export(folder)
        result = results.summary(self.config, [daemon.result(outcome)], wall_s)
        results.write(folder / "result.json", result)
        log.info(
            "run done" if outcome.complete else "run stopped: go on with --resume",
            rounds=outcome.round,
            accuracy=round(outcome.test_accuracy, 4),
            written=str(folder),
        )
        return result


@asynccontextmanager
async def _alongside(work: Any, name: str) -> AsyncIterator[None]:
    """Run something beside the body, for as long as the body lasts; its failure ends the body."""
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work, name=name)
            yield
            task.cancel()
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc


def _device(name: str) -> str:
    """ "auto" is cuda if there is one, else cpu."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run_node(options: Options) -> dict[str, Any]:
    """Run one node to its end, in an event loop of its own.

    Raises:
        EdgenodeError: it could not join, or the run failed.
        KeyboardInterrupt: it was interrupted.
    """
    try:
        return asyncio.run(Membership(options).run())
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
