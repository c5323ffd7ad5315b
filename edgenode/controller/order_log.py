"""Logs the orders that the controller sends to nodes."""

from __future__ import annotations

import structlog

from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    Offer,
    Order,
    Refuse,
    Restart,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.net.limited_log import limited

log = structlog.get_logger()


def log_order(node: str, order: Order) -> None:
    """Log an order to a node, if it matters to people."""
    match order:
        case Welcome():
            log.info("welcomed a node", node=node, round=order.round)
        case Refuse(reason):
            limited(log.warning, "refused a node", node, reason, node=node, reason=reason)
        case Offer(record):
            log.info("offering a change of plan", to=node, record=record.number, at_round=record.start)
        case Fence(_, ballot, evicted):
            log.warning("fencing", to=node, without=sorted(evicted), ballot=ballot)
        case EvictionCommitted():
            log.info("eviction committed", to=node)
        case Restart(reason):
            log.warning("restarting a member", node=node, reason=reason)
        case Standby(reason=reason) if reason:
            limited(log.info, "a node waits to join", node, reason, node=node, reason=reason)
        case Sponsor():
            log.info("sent a node to a sponsor", node=node, sponsor=order.address)
