"""A cheap signature for simulated clusters: a digest that takes a secret. Equal on every host."""

from __future__ import annotations

from hashlib import sha256

from edgenode.core.protocol.plan.signatures import Signed
from edgenode.errors import RemoteProtocolError


class SecretSigner:
    """Signs and verifies with one secret. A node that only verifies would have it, too, so this is for tests alone."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def sign(self, statement: str) -> str:
        """The signature over a statement."""
        return sha256(f"{self._secret}\n{statement}".encode()).hexdigest()[:16]

    def verify(self, signed: Signed) -> None:
        """Raises RemoteProtocolError unless the holder of the secret signed it."""
        if signed.signature != self.sign(signed.statement):
            raise RemoteProtocolError("a forged signature")


CONTROLLER_SIGNER = SecretSigner("of the true controller")
