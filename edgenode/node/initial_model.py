"""The model that a run begins with, where every node has made one of its own: that of the first member by name.

1. The first member keeps the model that it begins with for as long as another member can still lack it: it cannot mix
   the rounds after that without a push of every member.
2. Every other member asks for it before its first round, with the digest of its own. If both are equal, nothing is
   sent.
3. A node that asks later gets the model of that moment, as every newcomer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import structlog
from safetensors import SafetensorError
from safetensors.numpy import load

from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.plan import Plan
from edgenode.errors import RemoteProtocolError
from edgenode.net.control_client import ControlLink
from edgenode.net.peer_calls import fetch_model
from edgenode.net.relay_client import ask
from edgenode.net.retry import Backoff, Outage, retry
from edgenode.net.wire import Identity
from edgenode.storage.checkpoints import Arrays

log = structlog.get_logger()

_BACKOFF = Backoff(initial_s=0.05, max_s=1.0, jitter_s=0.2)
_FETCH_S = 600.0
_FIRST_LOG_S = 1.0


@dataclass(frozen=True)
class InitialModel:
    """The initial model of the first member, for the others.

    Attributes:
        model: the model as safetensors.
        names: the names of the members that begin the run.
        until: the last round in which one of them can still lack it.
    """

    model: bytes
    names: frozenset[str]
    until: int

    @classmethod
    def of(cls, plan: Plan, model: bytes) -> InitialModel:
        """The initial model of the members of a plan that begins."""
        names = plan.records[0].names
        return cls(model, frozenset(names), max(reach(plan, name, 0) for name in names))

    def serves(self, node: str, t: int) -> bool:
        """Return whether a node that asks in round t gets it."""
        return node in self.names and t <= self.until


async def fetch_initial(
    node: str, addresses: Sequence[str], link: ControlLink | None, identity: Identity, own: bytes, wait_s: float
) -> Arrays | None:
    """The first member's model. None if it is equal to ``own``.

    Args:
        node: the name of the first member.
        link: the link to the controller, which names further ways to it if it cannot be dialled.

    Raises:
        TransportError: the first member did not answer for ``wait_s``.
        RemoteProtocolError: it sent something else than a model like this node's.
    """

    digest = sha256(own).hexdigest()

    async def fetch(address: str) -> bytes:
        return await fetch_model(address, identity, 2 * len(own), _FETCH_S, digest, node)

    async def attempt() -> bytes:
        return await ask(node, addresses, link, identity.security, fetch)

    outage = Outage(lambda since_s, why: log.info("waiting for the first node's model", why=why), _FIRST_LOG_S)
    raw = await retry(attempt, outage, _BACKOFF, wait_s)
    if not raw:
        return None
    try:
        model, ours = load(raw), load(own)
    except SafetensorError as exc:
        raise RemoteProtocolError(f"the first node sent a damaged model: {exc}") from exc
    if any(model[key].shape != ours[key].shape for key in model.keys() & ours.keys()) or "z" not in model:
        raise RemoteProtocolError("the first node sent a model of other shapes")
    log.info("begins with the first node's model", size=len(raw))
    return model
