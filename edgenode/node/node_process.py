"""The node process, from its start to result.json.

It serves its peers, reaches a plan (`joining`), takes part in the run (`node_runner`), and writes what it has learnt.
An evicted process starts again as a newcomer.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import structlog

from edgenode import factory
from edgenode.addresses import join_address
from edgenode.config.graphs import GRAPHS
from edgenode.core.canonical import canonical
from edgenode.core.protocol.events import Publish
from edgenode.core.protocol.orders import StopRun, TrainingEnded
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.errors import Evicted, NotAdmitted, PeerRestarted, described, first_cause
from edgenode.net import peer_server, relay_server
from edgenode.net.control_client import ControlLink
from edgenode.net.peer_server import PeerServer
from edgenode.net.rpc import serving
from edgenode.net.tls import INSECURE, MutualTls
from edgenode.net.vouching import Vouching
from edgenode.net.wire import Identity
from edgenode.node.background import in_background
from edgenode.node.credentials import enrolled_again, verifier
from edgenode.node.first_state import StartPoint
from edgenode.node.fixed_peers import agree_with_peers, watch_for_restarts
from edgenode.node.initial_model import InitialModel, fetch_initial
from edgenode.node.joining import ControllerBootstrap, announced
from edgenode.node.local_node import LocalNode
from edgenode.node.mailbox import Mailbox
from edgenode.node.mask_key import MaskKey
from edgenode.node.meeting import Meeting
from edgenode.node.node_options import NodeOptions
from edgenode.node.node_runner import NodeRunner
from edgenode.node.peer_directory import PeerDirectory
from edgenode.node.renewal import keep_renewed
from edgenode.node.replica import Replica
from edgenode.node.resumable import resumable
from edgenode.node.shutdown import Shutdown
from edgenode.node.standing import Standing
from edgenode.node.stats import Outcome
from edgenode.node.staying import stay
from edgenode.node.workload import Workload, checkpoint_store
from edgenode.observability.systemd import Notifier
from edgenode.observability.tracking import Tracking
from edgenode.security.secret_files import kept_secret
from edgenode.storage import model_file, result_file
from edgenode.storage.state_folder import claimed

log = structlog.get_logger()

_LAST_REPORT_S = 20.0  # many nodes may report to the controller at once
_FLUSH_S = 2.0
_KNOWN_S = 10.0


class NodeProcess:
    """One process, from its start to its end or its eviction."""

    def __init__(self, options: NodeOptions, workload: Workload) -> None:
        config = options.config
        self.options, self._workload, self._mask_key = options, workload, MaskKey()
        fixed = options.controller == "none"
        self.identity = Identity(
            config.run.cluster, options.name, config.digest(rounds=fixed), process=self._mask_key.public,
            config=config.shared(rounds=fixed), workload=canonical(workload.identity()), security=options.security,
        )  # fmt: skip
        self.store = checkpoint_store(options.state_dir, config, workload)
        self.saved = resumable(self.store, options)
        self._server = PeerServer(self.identity, self.saved)
        self._meeting = Meeting(self.identity, self._server)
        self._worker = workload.worker()
        self._verifier = verifier(options)
        vouching = None if fixed else Vouching(options.security, self._controller_address)
        self._standing = Standing(options.name, config.run.window, vouching)
        if isinstance(options.security, MutualTls):
            options.security.admits = self._standing.admits
        self._shutdown = Shutdown(self._interrupt)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._controller: ControllerBootstrap | None = None
        self._link: ControlLink | None = None  # of a member
        self._runner: NodeRunner | None = None
        self._activity = "loading the data"  # until there is a runner
        self._cancelled_because = "interrupted"  # Ctrl-C, unless something else stops it

    async def run(self) -> dict[str, Any]:
        """Take part in a run. Return the content of result.json.

        Raises:
            EdgenodeError: the node could not join, or the run failed.
        """
        began = time.monotonic()
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            async with AsyncExitStack() as stack:
                local = await self._serve(stack)
                self._activity = "looking for the other nodes"
                if self.options.controller == "none":
                    runner, outcome = await self._run_with_peers(local)
                    return await self._conclude(runner, outcome, time.monotonic() - began)
                return await self._run_with_controller(local, stack, began)
        finally:
            self._worker.close()

    async def _serve(self, stack: AsyncExitStack) -> LocalNode:
        """Start the servers, and load the data."""
        if self.options.security is INSECURE:
            log.warning("INSECURE: every process on this machine can stop, steer and spoil this run")
        services = [(peer_server.SERVICE, self._server.add_to), (relay_server.SERVICE, self._meeting.relay.add_to)]
        server = serving(
            self.options.listen, services, reflection=self.options.reflection, security=self.options.security,
            most_received=peer_server.MOST_RECEIVED,
        )  # fmt: skip
        port = await stack.enter_async_context(server)
        self._meeting.listens(self.options.listen_host, port)
        if self.options.metrics != "none":
            from edgenode.net.http import serving_http
            from edgenode.observability.metrics import TOKEN, metrics_app

            token = kept_secret(self.options.state_dir / TOKEN)
            metrics = serving_http(metrics_app(self._view, token), self.options.metrics, "--metrics")
            log.info("metrics", url=f"{await stack.enter_async_context(metrics)}/metrics")
        options = self.options
        tracking = Tracking(options.track, options.config, options.state_dir, self._cluster, self._resumed)
        await stack.enter_async_context(in_background(tracking.run(), "tracking"))
        await stack.enter_async_context(in_background(Notifier().beat(self._in_a_line), "systemd"))
        log.info(self._activity)
        data = await self._worker(self._workload.prepare)
        model = await self._worker(self._workload.model_size)
        log.info("data loaded", samples=data.samples, shared_parameters=model.shared, local_parameters=model.own)
        address, cluster = join_address(self.options.listen_host, port), self.identity.cluster
        log.info("listening", node=self.options.name, address=address, cluster=cluster)
        joins_exchanges = factory.requirements(options.config).admits
        return LocalNode(self.identity, self.saved, data, port, self._verifier, model.most_bytes, joins_exchanges)

    # --- the run ------------------------------------------------------------------------------------

    async def _run_with_peers(self, local: LocalNode) -> tuple[NodeRunner, Outcome]:
        agreed = await agree_with_peers(self.options, local, self._server, self._show_activity)
        restarts = watch_for_restarts(self._server, self.identity, agreed)
        async with in_background(restarts, "restarts of peers"):
            runner = await self._prepare(agreed.start, PeerDirectory(agreed.addresses), Mailbox(), None)
            outcome = await self._take_part(runner)
            await self._server.wait_until_known_to(frozenset(agreed.addresses), _KNOWN_S)
            return runner, outcome

    async def _run_with_controller(self, local: LocalNode, stack: AsyncExitStack, began: float) -> dict[str, Any]:
        options, show = self.options, self._show_activity
        discovery = await stack.enter_async_context(announced(options, local.port)) if options.uses_mdns else None
        controller = self._controller = ControllerBootstrap(options, local, discovery, self._shutdown, show)
        security = options.security
        if isinstance(security, MutualTls):
            renewal = keep_renewed(options.credentials, security, self._controller_address, self._standing)
            await stack.enter_async_context(in_background(renewal, "renewal of the certificate"))
        await stack.enter_async_context(in_background(self._meeting.run(controller.link), "relays at which it waits"))
        async with in_background(controller.link.run(), "link to the controller"):
            start = await controller.wait_for_start()
            try:
                directory = PeerDirectory(discovery=discovery, observed=controller.link.observed.of)
                runner = await self._prepare(start, directory, controller.mailbox, controller.link)
                controller.node_runs(lambda: runner.progress.snapshot)
                self._link = controller.link
                if threading.current_thread() is threading.main_thread():
                    self._shutdown.on_sigterm(controller.link)
                outcome = await self._take_part(runner)
                self._shutdown.run_ended(controller.all_ended.set)
                result = await self._conclude(runner, outcome, time.monotonic() - began)
                if runner.replica.learner.algorithm_spec.rule.fixed:
                    await stay(controller.all_ended, runner.answer)
                await controller.link.flush(_LAST_REPORT_S, _FLUSH_S)
                return result
            finally:
                await controller.link.flush(_FLUSH_S, _FLUSH_S)

    def _controller_address(self) -> str:
        """host:port of the controller that was dialled last, or ""."""
        return self._controller.link.target if self._controller is not None else ""

    async def _prepare(
        self, start: StartPoint, directory: PeerDirectory, mailbox: Mailbox, link: ControlLink | None
    ) -> NodeRunner:
        """Make this process the member that the plan names."""
        plan, name = start.plan, self.options.name
        self._standing.welcomed(plan, start.round)
        self._server.identity = replace(
            self.identity,
            plan_digest=plan.records[0].digest,
            incarnation=plan.at(start.round).incarnations[name],
        )
        log.info("run begins", round=start.round, nodes=list(plan.latest.names), plan=plan.latest.digest[:12])
        if plan.latest.rounds not in (None, self.options.config.run.rounds):
            log.info("the controller plans another number of rounds than run.toml", rounds=plan.latest.rounds)
        replica, initial = await self._worker(self._replica, start), None
        if self._workload.makes_own_model and start.round == 0 and start.fetched is None and len(plan.latest.names) > 1:
            own, first = await self._worker(replica.model), plan.records[0].names[0]
            if first == name:
                initial = InitialModel.of(plan, own)
            else:
                addresses, identity = directory.find(first, plan).addresses, self._server.identity
                model = await fetch_initial(first, addresses, link, identity, own, self.options.wait_s)
                replica = replica if model is None else await self._worker(self._replica, replace(start, fetched=model))
        config, server = self.options.config, self._server
        self._runner = NodeRunner(config, replica, self._worker, server, directory, mailbox, link, initial)
        self._meeting.begin(self._runner.routes)
        self._standing.begin(self._runner.progress, link)
        return self._runner

    def _replica(self, start: StartPoint) -> Replica:
        config, name = self.options.config.lasting(start.plan.latest.rounds), self.options.name
        trainer = self._workload.trainer(name, start.plan.records[0].names, start.plan.latest.epoch)
        spec = self._mask_key.hide(factory.algorithm_spec(config), name, start.plan.latest.members)
        window, publish_to = config.run.window, self.options.model_file
        return Replica(config, spec, name, trainer, start, self.store, window, publish_to, self._verifier)

    async def _take_part(self, runner: NodeRunner) -> Outcome:
        try:
            return await runner.run()
        except BaseException as exc:
            cause = first_cause(exc)
            cancelled = isinstance(cause, asyncio.CancelledError)
            runner.progress.report(NodeState.FAILED, self._cancelled_because if cancelled else described(cause))
            raise cause from exc

    async def _conclude(self, runner: NodeRunner, outcome: Outcome, wall_s: float) -> dict[str, Any]:
        folder = self.options.state_dir
        await self._worker(runner.replica.publish, Publish(outcome.round, outcome.z))
        config = self.options.config.lasting(runner.progress.snapshot.plan.latest.rounds)
        result = result_file.summary(config, [runner.result(outcome)], wall_s)
        result_file.write(folder / "result.json", result)
        log.info(
            self._ending(outcome),
            rounds=outcome.round,
            **({"handed_over_to": outcome.handed_to or "nobody"} if outcome.left else {}),
            accuracy=None if outcome.test_accuracy is None else round(outcome.test_accuracy, 4),
            written=str(folder),
        )
        return result

    def _ending(self, outcome: Outcome) -> str:
        if outcome.left:
            return "this node has left, and the run goes on without it"
        if outcome.complete:
            return "run done"
        return "run stopped: start the controller and all nodes again to resume"

    # --- the end, from another thread ---------------------------------------------------------------

    def leave(self) -> None:
        """Leave after a handoff if a controller can plan one, else stop."""
        alone = "left without a handoff, which needs a controller"
        self._call(lambda: self._interrupt(alone) if self._link is None else self._shutdown.leave(self._link))

    def end_training(self) -> None:
        """Leave when the controller lets this node go. Until then, or without a controller, it trains no more."""
        self._ask(TrainingEnded())

    def stop_run(self) -> None:
        """Ask the controller to stop all nodes before the same round."""
        self._ask(StopRun())

    def _ask(self, what: TrainingEnded | StopRun) -> None:
        if (link := self._link) is not None:
            self._call(lambda: self._shutdown.ask(link, what))

    def stop(self, reason: str) -> None:
        """Stop at once, and report why. ``run`` raises CancelledError."""
        self._call(lambda: self._interrupt(reason))

    def _call(self, action: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(action)

    def _interrupt(self, reason: str) -> None:
        self._cancelled_because = reason
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(signal.SIGINT)  # asyncio.run cancels the task, and raises KeyboardInterrupt
        elif self._task is not None:
            self._task.cancel()

    # --- status -------------------------------------------------------------------------------------

    def _view(self) -> NodeView:
        """This node, for its metrics."""
        status = self._runner.progress.status() if self._runner is not None else NodeStatus()
        return NodeView(self.options.name, status=status)

    def _cluster(self) -> ClusterStatus:
        """Return the status of the cluster that this node knows, for its tracker: its own."""
        return ClusterStatus(self.identity.cluster, nodes=(self._view(),))

    def _resumed(self) -> bool:
        return self._runner is not None and self._runner.replica.resumed

    def _in_a_line(self) -> str:
        return self._runner.progress.in_a_line() if self._runner is not None else self._activity

    def _show_activity(self, text: str) -> None:
        self._activity = text


def run_node(
    options: NodeOptions, workload: Workload, begins: Callable[[NodeProcess], None] = lambda _: None
) -> dict[str, Any]:
    """Run one node to its end, in an event loop of its own.

    An evicted node rejoins as a newcomer. With fixed peers, all resume from a checkpoint when one of them is back.

    Args:
        begins: called with each process of this node before it runs.

    Raises:
        EdgenodeError: the node could not join, or the run failed.
        KeyboardInterrupt: it was interrupted.
    """
    factory.check_networked(options.config, controller=options.controller != "none")
    for name, reason in GRAPHS.add_all().items():  # an operator may choose any of them
        log.warning("skipping the graph of an extension", graph=name, reason=reason)
    with claimed(options.state_dir, f"node {options.name}"):
        model_file.check_writable(options.model_file)
        while True:
            try:
                process = NodeProcess(options, workload)
                begins(process)
                return asyncio.run(process.run())
            except NotAdmitted as exc:
                if options.join is None:
                    raise
                security = enrolled_again(options, exc)
                options = replace(options, security=security, join=None, fresh=False, resume_from=None)
            except (Evicted, PeerRestarted) as exc:
                again = "rejoining as a newcomer" if isinstance(exc, Evicted) else "resuming from a checkpoint"
                log.warning(again, reason=str(exc))
                # the next process starts from what this one has saved
                options = replace(options, fresh=False, resume_from=None)
            except BaseExceptionGroup as exc:
                raise first_cause(exc) from exc
