"""Whose word counts: what a controller signs, and what a node asks for before it believes a record or a greeting.

The cryptography is outside of the core. Here are the seams, and the two cases without any.
"""

from __future__ import annotations

from typing import Protocol

from edgenode.errors import RemoteProtocolError


class Signed(Protocol):
    """What a controller says: a record of the plan, or which controller it is."""

    @property
    def statement(self) -> str:
        """The text that is signed. No two kinds share one."""
        ...

    @property
    def signature(self) -> str:
        """Over the statement. Empty without one."""
        ...


class Verifier(Protocol):
    """Tells what a controller of this cluster said from what anybody else says."""

    def verify(self, signed: Signed) -> None:
        """Return if a controller of this cluster signed it.

        Raises:
            RemoteProtocolError: none did.
        """
        ...


class Signer(Verifier, Protocol):
    """What a controller has: it signs, too."""

    def sign(self, statement: str) -> str:
        """The signature over a statement."""
        ...


class Unsigned:
    """A cluster without certificates: everything is believed."""

    def verify(self, signed: Signed) -> None:
        """Accept it."""

    def sign(self, statement: str) -> str:
        """No signature."""
        return ""


class FoundingRecordOnly:
    """A run without a controller: its nodes have made its first record themselves, and nobody can make another."""

    def verify(self, signed: Signed) -> None:
        """Refuse it."""
        raise RemoteProtocolError("this run has no controller, so its plan never changes")


UNSIGNED = Unsigned()
