"""Signatures of the cluster's authority over what a controller says: the records of the plan, and its greetings.

1. The authority's key signs, not that of the controller's certificate. Every member has the authority's certificate, so
   a signature needs no certificate of its own, outlives a renewal, and does not depend on anybody's clock.
2. A text that is signed begins with a line that no certificate begins with. So a signature over one is never one over
   the other.
3. ECDSA signatures can be rewritten to other valid ones. So nothing is ever identified by its signature.
"""

from __future__ import annotations

import base64
import binascii
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.errors import RemoteProtocolError
from edgenode.security.certificates import Credentials, private_key, public_key

_PREFIX = "edgenode statement\n"
_ALGORITHM = ec.ECDSA(hashes.SHA256())
MAX_SIGNATURE_CHARS = 128


class Signed(Protocol):
    """A statement of a controller, with its signature in base64."""

    @property
    def statement(self) -> str: ...

    @property
    def signature(self) -> str: ...


class AuthorityVerifier:
    """Verifies with the authority's certificate (PEM).

    Raises:
        SecurityError: it is malformed.
    """

    def __init__(self, certificate: bytes) -> None:
        self._public_key = public_key(certificate)

    def verify(self, signed: Signed) -> None:
        """Return if the authority signed it.

        Raises:
            RemoteProtocolError: it did not.
        """
        if not signed.signature:
            raise RemoteProtocolError("a record or a greeting without the signature of the cluster's authority")
        try:
            signature = base64.b64decode(signed.signature[:MAX_SIGNATURE_CHARS], validate=True)
            self._public_key.verify(signature, _covered(signed.statement), _ALGORITHM)
        except (InvalidSignature, binascii.Error, ValueError) as exc:
            raise RemoteProtocolError("a record or a greeting that the cluster's authority did not sign") from exc


class AuthoritySigner(AuthorityVerifier):
    """Signs with the authority's key.

    Raises:
        SecurityError: the key or the certificate is malformed.
    """

    def __init__(self, authority: Credentials) -> None:
        super().__init__(authority.certificate)
        self._private_key = private_key(authority.key)

    def sign(self, statement: str) -> str:
        """The signature over a statement, in base64."""
        return base64.b64encode(self._private_key.sign(_covered(statement), _ALGORITHM)).decode()


def _covered(statement: str) -> bytes:
    return f"{_PREFIX}{statement}".encode()
