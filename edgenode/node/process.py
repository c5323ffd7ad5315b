"""How a process becomes a member of a run: it serves, finds the others, agrees on the plan, and then takes part.

Two ways lead to a plan. With a controller, the controller founds the run and welcomes everyone. With a fixed list
of peers and none, every node asks all others who they are and derives the same record from the sorted answers.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from safetensors import SafetensorError
from safetensors.numpy import load

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.events import NodeEvent
from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    Fetched,
    Halt,
    Hello,
    Join,
    Leadership,
    Leave,
    LeaveRefused,
    Offer,
    Order,
    Refuse,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.status import NodeStatus, NodeView
from edgenode.errors import ConfigError, Evicted, OtherRun, TransportError, first_cause
from edgenode.net import peer_server
from edgenode.net.control_client import ControlLink
from edgenode.net.discovery import Discovery
from edgenode.net.http import serving_http
from edgenode.net.interfaces import interfaces_for
from edgenode.net.mdns_service import Service
from edgenode.net.peer_client import PeerAddresses, fetch_model, meet, probe
from edgenode.net.peer_server import PeerServer, name_conflict
from edgenode.net.rpc import address_towards, join_address, serving, split_address
from edgenode.net.wire import PROTOCOL, Identity
from edgenode.node.runner import NodeRunner, Outcome, Worker
from edgenode.observability.metrics import metrics_app
from edgenode.observability.systemd import Notifier
from edgenode.storage import result_file
from edgenode.storage.checkpoints import Arrays, CheckpointStore

log = structlog.get_logger()

_FLUSH_S = 2.0
_MEET_S = 10.0
_FETCH_S = 600.0
_PROBE_S = 5.0
_RETRY_S = 2.0
_HAND_OVER_S = 20.0
_LOOK_EVERY_S = 0.1
_MAX_MODEL_BYTES = 1 << 32


@dataclass(frozen=True)
class Options:
    """What the command line of ``edgenode run`` says.

    Attributes:
        peers: host:port of the others; empty to find them by mDNS.
        controller: "mdns", "none", or host:port.
        fresh: forget the checkpoints, and start anew.
        wait_s: how long to look for the controller, or for the peers, before giving up.
        metrics: host:port for Prometheus, or "none".
    """

    config: Config
    name: str
    listen: str
    peers: tuple[str, ...]
    controller: str
    state_dir: Path
    fresh: bool = False
    wait_s: float = 300.0
    metrics: str = "none"


class NodeProcess:
    """One process on its way into a run, and through it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.config = options.config
        self.worker = Worker()
        self.store = CheckpointStore(options.state_dir, self.config.digest())
        process = secrets.token_hex(8)
        self.identity = Identity(self.config.run.cluster, options.name, self.config.digest(), process=process)
        self.saved = self._saved()
        self.server = PeerServer(self.identity, self.saved)
        self.port = 0
        self.addresses: dict[str, str] = {}  # of fixed peers, as they answered
        self._discovery: Discovery | None = None
        self._runner: NodeRunner | None = None
        self._early: list[NodeEvent] = []  # orders to a daemon that is still to come: they are not said twice
        self._welcome: asyncio.Future[Welcome] | None = None
        self._sponsored: asyncio.Queue[Sponsor] = asyncio.Queue()
        self._fetched: Arrays | None = None
        self._over = False
        self._follows: Leadership | None = None
        self._halted = False
        self._rounds_per_epoch = 1
        self._awaits = "loading the data"  # until there is a daemon to ask

    def _saved(self) -> tuple[frozenset[int], Plan | None]:
        """What there is to go on from: the rounds of the intact checkpoints, and the plan of the newest.

        Raises:
            ConfigError: the checkpoints are of another run.
        """
        if self.options.fresh:
            _remove(self.store.folder)
        try:
            rounds, plan, damage = self.store.scan()
        except OtherRun as exc:
            raise ConfigError(f"{exc}; forget it with --fresh, or give another --state-dir") from exc
        for reason in damage:
            log.warning("skipping a checkpoint", reason=reason)
        if damage and not rounds:
            log.warning("no checkpoint is intact: joining without", folder=str(self.store.folder))
        return rounds, plan

    async def run(self) -> dict[str, Any]:
        """From nothing to result.json.

        Raises:
            EdgenodeError: it could not join, or the run failed.
        """
        began = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                services = [(peer_server.SERVICE, self.server.add_to)]
                self.port = await stack.enter_async_context(serving(self.options.listen, services))
                if self.options.metrics != "none":
                    where = await stack.enter_async_context(
                        serving_http(metrics_app(self._view), self.options.metrics, "--metrics")
                    )
                    log.info("metrics", url=f"{where}/metrics")
                await stack.enter_async_context(_alongside(Notifier().beat(self._status), "systemd"))
                self._rounds_per_epoch = await self.worker(factory.prepare_task, self.config)
                log.info(
                    "listening", node=self.options.name, address=self._own_address(), cluster=self.config.run.cluster
                )
                self._awaits = "looking for the others"
                if self.options.controller == "none":
                    plan, start = await self._found_among_peers()
                    daemon, outcome = await self._take_part(plan, start, None)
                    await self.server.wait_until_known_to(frozenset(self.addresses), _MEET_S)
                else:
                    daemon, outcome = await self._join_controller(stack)
                return self._conclude(daemon, outcome, time.monotonic() - began)
        finally:
            self.worker.close()

    def _view(self) -> NodeView:
        """This node, for its metrics."""
        return NodeView(self.options.name, status=self._runner.status() if self._runner is not None else NodeStatus())

    async def _take_part(self, plan: Plan, start: int, link: ControlLink | None) -> tuple[NodeRunner, Outcome]:
        incarnation = plan.at(start).incarnations[self.options.name]
        founding = plan.records[0].digest
        self.server.identity = replace(self.identity, plan_digest=founding, incarnation=incarnation)
        log.info("run begins", round=start, nodes=list(plan.latest.names), plan=plan.latest.digest[:12])
        trainer = await self.worker(factory.trainer, self.config, self.options.name, plan.records[0].names)
        fetched = (
            self._fetched if start > plan.records[0].start else None
        )  # else all resume, whatever it fetched before
        daemon = NodeRunner(
            self.config, self.options.name, trainer, plan, start, self.store,
            self.server, self.worker, link, self._peer_addresses, fetched, self._halted,
        )  # fmt: skip
        self._hand_over_to(daemon)
        if link is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._asked_to_leave, link)
        try:
            outcome = await daemon.run()
        except BaseException as exc:
            daemon.fail(first_cause(exc))
            raise first_cause(exc) from exc
        self._over = True
        return daemon, outcome

    def _hand_over_to(self, daemon: NodeRunner) -> None:
        """From now on the orders are the daemon's, those that came while it was made first."""
        self._runner = daemon
        for order in self._early:
            daemon.post(order)
        self._early.clear()

    def _peer_addresses(self, peer: str) -> PeerAddresses:
        """Where a peer may be: as it answered, as the plan says, as mDNS says."""
        if peer in self.addresses:
            return PeerAddresses((self.addresses[peer],))
        plan = self._runner.plan if self._runner is not None else None
        member = next((m for r in reversed(plan.records) for m in r.members if m.node == peer), None) if plan else None
        heard = self._discovery.services("node").get(peer) if self._discovery is not None else None
        addresses = [*([member.address] if member and member.address else []), *(heard.targets if heard else ())]
        return PeerAddresses(tuple(dict.fromkeys(addresses)), member.incarnation if member else 0)

    def _asked_to_leave(self, link: ControlLink) -> None:
        """SIGTERM: hand over and go; a second one does not wait for that."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        log.info("leaving: handing over first", again="SIGTERM once more stops at once")
        link.report(Leave())
        self._await_leave(link, loop.time() + _HAND_OVER_S)

    def _await_leave(self, link: ControlLink, deadline: float) -> None:
        """A leave needs the controller, and an end."""
        loop = asyncio.get_running_loop()
        if self._over:
            return
        if not link.connected.is_set():
            self._stay("the controller is away")
        elif loop.time() > deadline:
            self._stay(f"handing over took more than {_HAND_OVER_S:g} s")
        else:
            loop.call_later(_LOOK_EVERY_S, self._await_leave, link, deadline)

    def _stay(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        log.warning("stopping without handing over", reason=reason)
        signal.raise_signal(signal.SIGINT)

    def _status(self) -> str:
        return self._runner.in_a_line() if self._runner is not None else self._awaits

    def _own_address(self) -> str:
        return join_address(split_address(self.options.listen)[0], self.port)

    # --- with a controller --------------------------------------------------------------------------

    async def _join_controller(self, stack: AsyncExitStack) -> tuple[NodeRunner, Outcome]:
        if "mdns" in (self.options.controller, *(self.options.peers or ("mdns",))):
            self._discovery = await stack.enter_async_context(self._announced())
        self._welcome = asyncio.get_running_loop().create_future()
        link = ControlLink(self.identity, self._find_controller, self._joined, self._ordered)
        async with _alongside(link.run(), "link to the controller"):
            async with _alongside(self._fetch_models(link), "sponsor"):
                welcome = await self._until_welcome(link, self._welcome)
            try:
                return await self._take_part(welcome.plan, welcome.round, link)
            finally:
                await link.flush(_FLUSH_S)

    async def _fetch_models(self, link: ControlLink) -> None:
        """The run goes on already: fetch the model where the controller says, reach everyone, say so."""
        while True:
            order = await self._sponsored.get()
            try:
                raw = await fetch_model(order.address, self.identity, _MAX_MODEL_BYTES, _FETCH_S)
                reached = await asyncio.gather(*(probe(other, self.identity, _PROBE_S) for other in order.others))
                if not all(reached):
                    unreached = [o for o, ok in zip(order.others, reached, strict=True) if not ok]
                    raise TransportError(f"cannot reach {', '.join(unreached)}")
                self._fetched = load(raw)
            except (TransportError, SafetensorError) as exc:
                log.warning("cannot join yet", reason=str(exc))
                await asyncio.sleep(_RETRY_S)
                self._sponsored.put_nowait(order)
                continue
            log.info("fetched the model", sponsor=order.address, size=len(raw))
            link.report(Fetched())

    @asynccontextmanager
    async def _announced(self) -> AsyncIterator[Discovery]:
        async with Discovery(self.config.run.cluster, interfaces_for(split_address(self.options.listen)[0])) as found:
            await found.announce(Service("node", self.config.run.cluster, self.options.name, (), self.port, PROTOCOL))
            yield found

    async def _until_welcome(self, link: ControlLink, welcome: asyncio.Future[Welcome]) -> Welcome:
        """Wait as long as it takes, but not without a controller."""
        while True:
            try:
                await asyncio.wait_for(link.connected.wait(), self.options.wait_s)
            except TimeoutError:
                raise ConfigError(self._why_no_controller()) from None
            await asyncio.wait({welcome}, timeout=_LOOK_EVERY_S)
            if welcome.done():
                return welcome.result()

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

    def _joined(self, controller: str) -> Join:
        """What to say to the controller: a newcomer, someone to be resumed, or a member that lost sight of it."""
        host = split_address(self.options.listen)[0]
        if host in ("", "0.0.0.0", "::"):
            host = address_towards(controller)
        rounds, plan = self.saved
        running = self._runner is not None
        if self._runner is not None:
            plan = self._runner.plan
        return Join(
            join_address(host, self.port),
            self.config.digest(),
            self._rounds_per_epoch,
            rounds,
            plan,
            running,
            self.identity.process,
            self._runner.fenced if self._runner is not None else frozenset(),
            self._follows if running else None,
        )

    def _ordered(self, order: Order) -> None:
        match order:
            case Hello(leadership, paused):
                self._greeted(leadership)
                self._halt(Halt(paused))
            case Halt():
                self._halt(order)
            case Welcome():
                if self._welcome is not None and not self._welcome.done():
                    self._welcome.set_result(order)
            case Sponsor():
                self._sponsored.put_nowait(order)
            case LeaveRefused(reason):
                self._stay(reason)
            case Standby(present, missing):
                self._say_waiting(present, missing)
            case Refuse():
                pass  # the link has raised it
            case Offer() | Fence() | EvictionCommitted():
                if self._runner is not None:
                    self._runner.post(order)
                else:
                    self._early.append(order)

    def _halt(self, order: Halt) -> None:
        self._halted = order.halted  # for the daemon, if that is still to come
        if self._runner is not None:
            self._runner.post(order)

    def _greeted(self, leadership: Leadership) -> None:
        """A run has one controller: who is in it takes no orders from an older one, or from a second.

        Raises:
            TransportError: this is not the one; the right one may be found at the next attempt.
        """
        if self._runner is not None and self._follows is not None and leadership.yields_to(self._follows):
            raise TransportError(f"the controller at {leadership} is not the one we follow, at {self._follows}")
        self._follows = leadership

    def _say_waiting(self, present: tuple[str, ...], missing: int) -> None:
        self._awaits = f"waiting for {missing} more beside {', '.join(present)}"
        log.info("waiting for nodes", present=list(present), missing=missing)

    # --- with a fixed list of peers -----------------------------------------------------------------

    async def _found_among_peers(self) -> tuple[Plan, int]:
        """Every node computes the same plan from the same answers."""
        me = (self.identity, *self.saved)
        asked = [meet(target, self.identity, self._say_silent, self.options.wait_s) for target in self.options.peers]
        async with _alongside(self.server.first_mismatch(), "strangers"), asyncio.TaskGroup() as group:
            tasks = [group.create_task(call, name="meet") for call in asked]
        answers = [me]
        for target, task in zip(self.options.peers, tasks, strict=True):
            identity, rounds, plan = task.result()
            if identity.node == self.options.name:
                if identity.process != self.identity.process:
                    raise name_conflict(identity.node, target)
                continue
            if identity.node in self.addresses:
                raise ConfigError(
                    f"node id {identity.node!r} is that of {self.addresses[identity.node]} and of {target}: "
                    "give one of them another --name"
                )
            self.addresses[identity.node] = target
            answers.append((identity, rounds, plan))
        if len(answers) != self.config.run.nodes:
            names = ", ".join(sorted(identity.node for identity, *_ in answers))
            raise ConfigError(f"run.nodes = {self.config.run.nodes}, but --peers makes {len(answers)}: {names}")
        saved = {identity.node: (rounds, plan) for identity, rounds, plan in answers}
        return factory.agreed_plan(self.config, saved, self._rounds_per_epoch)

    def _say_silent(self, target: str, why: str) -> None:
        self._awaits = f"waiting for the peer at {target}: {why}"
        log.info("waiting for a peer", peer=target, why=why)

    # --- the end ------------------------------------------------------------------------------------

    def _conclude(self, daemon: NodeRunner, outcome: Outcome, wall_s: float) -> dict[str, Any]:
        folder = self.options.state_dir
        folder.mkdir(parents=True, exist_ok=True)
        daemon.export(folder)
        result = result_file.summary(self.config, [daemon.result(outcome)], wall_s)
        result_file.write(folder / "result.json", result)
        log.info(
            "run done" if outcome.complete else "run stopped or left: start again to go on",
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


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def run_node(options: Options) -> dict[str, Any]:
    """Run one node to its end, in an event loop of its own; one that was taken for dead comes back as a newcomer.

    Raises:
        EdgenodeError: it could not join, or the run failed.
        KeyboardInterrupt: it was interrupted.
    """
    factory.check_networked(options.config, controller=options.controller != "none")
    while True:
        try:
            return asyncio.run(NodeProcess(options).run())
        except Evicted as exc:
            log.warning("coming back as a newcomer", reason=str(exc))
            options = replace(options, fresh=False)  # a second life begins with what the first has saved
        except BaseExceptionGroup as exc:
            raise first_cause(exc) from exc
