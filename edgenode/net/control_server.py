"""The controller's end of the links: takes every node's reports, and gives orders.

Only the newest link of a node counts. Reports on an older one are dropped. A node can be faulty, or lie, so what it can
leave in the memory of the controller is limited:

1. A report, the first included, has at most MOST_REPORTED bytes beside the records of a plan. One with records has as
   many as gRPC takes: the plan of a long run is large. The size is checked before anything is decoded.
2. Of the reports of a node, at most _MOST_WAITING wait to be handled, or one with a plan. No more is read until then,
   and HTTP/2 holds the node up.
3. A caller has one link whose first report has not arrived. A newer one ends it, and so does _HELLO_S.
4. At most _MOST_ORDERS wait until a node reads them, or its link is over. A call ends when its last order is written,
   or its connection is lost, so a node has at most _MOST_CALLS. If it connects again, it gets the orders that count.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from edgenode.core.protocol.events import Disconnected, Reported
from edgenode.core.protocol.orders import Join, NodeReport, Order, Refuse
from edgenode.core.protocol.status import NodeStatus
from edgenode.errors import EdgenodeError, RemoteProtocolError, TransportError, first_cause
from edgenode.net.faults import Faults
from edgenode.net.front import peer_of
from edgenode.net.limited_log import limited
from edgenode.net.newest import NewestCalls
from edgenode.net.observed_addresses import observed_address
from edgenode.net.order_wire import ORDERS, join_from_wire, report_from_wire, report_has_records
from edgenode.net.peer_calls import Probe, direct_probe
from edgenode.net.proto import control_pb2, control_pb2_grpc
from edgenode.net.report_size import check_size
from edgenode.net.rpc import parsed, refuse, reject
from edgenode.net.status_wire import NODE_STATUS
from edgenode.net.tls import key_of_caller, node_of_caller, require_name
from edgenode.net.wire import Identity

log = structlog.get_logger()

SERVICE = "edgenode.v1.ControlService"
MOST_REPORTED = 1 << 20
_MOST_WAITING = 16
_MOST_ORDERS = 64
_MOST_CALLS = 4
_HELLO_S = 10.0
_PROBE_S = 5.0
_Outbox = asyncio.Queue[control_pb2.AttendResponse | None]  # None ends the link


class ControlServer(control_pb2_grpc.ControlServiceServicer):
    """Serves one stream for each node.

    Args:
        post: takes the reports and the ends of links. `handled` is to be called once for each report.
        show: takes (node, status).
        planned: returns the address of a node in the plan, or "".
        faults: takes what nodes report against the protocol.
        probe: finds out which process answers for a node. None for what is at its address.
        relay_at: returns the address of a relay, or "" for any other name.
    """

    def __init__(
        self,
        identity: Identity,
        post: Callable[[Reported | Disconnected], None],
        show: Callable[[str, NodeStatus], None],
        planned: Callable[[str], str],
        faults: Faults,
        probe: Probe | None = None,
        relay_at: Callable[[str], str] = lambda name: "",
    ) -> None:
        self._probe, self._relay_at = probe or direct_probe(identity), relay_at
        self._identity, self._post, self._show, self._planned = identity, post, show, planned
        self._faults = faults
        self._greetings = NewestCalls()
        self._calls = Counter[str]()  # by node
        self._waiting = Counter[str]()  # reports by node
        self._handled = asyncio.Event()  # set once, and then replaced, whenever a report was handled
        self._links: dict[str, _Outbox] = {}
        self._addresses: dict[str, str] = {}
        self._processes: dict[str, str] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server. Reports stay bytes, which the generated handler would decode."""
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        written = control_pb2.AttendResponse.SerializeToString
        attend = grpc.stream_stream_rpc_method_handler(self.Attend, None, written)
        server.add_registered_method_handlers(SERVICE, {"Attend": attend})

    def send(self, node: str, order: Order) -> None:
        """Give an order. To a node without a link it is lost, and sent again when the node reconnects."""
        orders = self._links.get(node)
        if orders is None:
            return
        if orders.qsize() >= _MOST_ORDERS:
            reason = f"{_MOST_ORDERS} orders wait, and it reads none"
            limited(log.warning, "ended a link", node, reason, node=node, reason=reason)
            self.hang_up(node)
            return
        orders.put_nowait(ORDERS.to_wire(order))
        if isinstance(order, Refuse):
            orders.put_nowait(None)

    def handled(self, node: str) -> None:
        """A report of a node does not wait any more."""
        self._waiting -= Counter([node])
        self._handled.set()
        self._handled = asyncio.Event()

    async def Attend(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        """One node's stream."""
        orders = _Outbox()
        node = ""
        try:
            name, join = await self._first_report(requests, context)
            if rival := await self._rival(name, join):
                why = f"node id {name!r} is taken by {rival}; give the process at {join.address} another --name"
                limited(log.warning, "refused a node", name, rival, node=name, reason=why)
                await context.write(ORDERS.to_wire(Refuse(why)))
                return
            await self._wait_for_turn(name, 1)
            if self._calls[name] >= _MOST_CALLS:
                raise TransportError(f"{_MOST_CALLS} earlier links have not ended: their orders are not read")
            node = name
            self._calls[node] += 1
            self.hang_up(node)
            self._links[node], self._addresses[node], self._processes[node] = orders, join.address, join.process
            self._report(node, join)
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(node, requests, orders), name=f"reports of {node}")
                while (order := await orders.get()) is not None:
                    await context.write(order)
                reader.cancel()
        except (EdgenodeError, ExceptionGroup) as exc:
            cause, who = first_cause(exc), node or node_of_caller(context)
            if isinstance(cause, RemoteProtocolError):
                self._faults.note(who, "report", cause)
                await refuse(context, cause)
            await reject(context, cause, who)
        finally:
            self._calls -= Counter([node])
            if self._links.get(node) is orders:
                del self._links[node]
                self._post(Disconnected(node))

    async def _first_report(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> tuple[str, Join]:
        """The name of a node, and its first report. A large report is not kept longer than that."""
        caller = node_of_caller(context) or peer_of(context)
        why = f"no report in {_HELLO_S:g} s, or {caller} has called again"
        async with self._greetings.only(caller, why, _HELLO_S):
            report = await anext(aiter(requests), b"")
        first = (await parsed(_decoded, report, _is_large(report))).join
        name = self._identity.check(first.identity, peer_of(context)).node
        require_name(context, name)
        claimed = await parsed(join_from_wire, first, bool(first.saved.records))
        observed = observed_address(claimed.address, peer_of(context))
        return name, replace(claimed, key=key_of_caller(context), observed=observed)

    async def _wait_for_turn(self, node: str, most: int) -> None:
        """Wait until fewer than ``most`` reports of a node wait."""
        while self._waiting[node] >= most:
            await self._handled.wait()

    def _report(self, node: str, report: NodeReport) -> None:
        self._waiting[node] += 1
        self._post(Reported(node, report))

    async def _rival(self, node: str, join: Join) -> str:
        """A relay of this name, or the last address of another living process of this name. Empty if there is none.

        That process can be without a link, because it has lost it. A restarted device no longer answers at its old
        address, or answers as the joining process. The same check finds a process that joins with
        the address of a living member.
        """
        if relay := self._relay_at(node):
            return f"the relay at {relay}"
        asked = {"", join.address} if self._processes.get(node) == join.process else {""}
        while (last := self._addresses.get(node) or self._planned(node)) not in asked:
            there = await self._probe(last, node, _PROBE_S)
            if there and there.is_of(self._identity, node) and there.process != join.process:
                return last
            asked.add(last)
        return ""

    def hang_up(self, node: str) -> None:
        """End the link of a name: its node has connected again, its key was revoked, or it is dead."""
        if node in self._links:
            self._links.pop(node).put_nowait(None)
            self._post(Disconnected(node))

    async def _read(self, node: str, requests: AsyncIterator[bytes], orders: _Outbox) -> None:
        async for report in requests:
            if self._links.get(node) is not orders:
                break
            await self._take(node, await parsed(_decoded, report, _is_large(report)))
            del report  # it may be large, and the next one may come late
        orders.put_nowait(None)

    async def _take(self, node: str, request: control_pb2.AttendRequest) -> None:
        """Take a report other than the first."""
        has_plan = report_has_records(request)
        await self._wait_for_turn(node, 1 if has_plan else _MOST_WAITING)
        report = await parsed(report_from_wire, request, has_plan)
        if request.HasField("progress"):
            self._show(node, NODE_STATUS.from_wire(request.progress))
        self._report(node, report)


def _is_large(report: bytes) -> bool:
    """Return whether it takes long to decode a report."""
    return len(report) > MOST_REPORTED


def _decoded(report: bytes) -> control_pb2.AttendRequest:
    check_size(report, MOST_REPORTED)
    try:
        decoded: control_pb2.AttendRequest = control_pb2.AttendRequest.FromString(report)
    except DecodeError as exc:
        raise RemoteProtocolError("malformed report") from exc
    return decoded
