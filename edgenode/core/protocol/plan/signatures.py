"""The signatures of a controller, which a node checks before it believes a record or a greeting.

The cryptography is outside of the core. Here are the seams, and the two cases without any.
"""

from __future__ import annotations

from typing import Protocol

from edgenode.errors import RemoteProtocolError


class Signed(Protocol):
    """A statement of a controller: a record of the plan, or its identity."""

    @property
    def statement(self) -> str:
        """The text that is signed. No two kinds share one."""
        ...

    @property
    def signature(self) -> str:
        """The signature over the statement, or ""."""
        ...


class Verifier(Protocol):
    """Distinguishes statements of this cluster's controller from all others."""

    def verify(self, signed: Signed) -> None:
        """Return if a controller of this cluster signed it.

        Raises:
            RemoteProtocolError: none did.
        """
        ...


class Signer(Verifier, Protocol):
    """The verifier of a controller, which also signs."""

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
