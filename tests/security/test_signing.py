"""Only the authority of a cluster can sign what its nodes believe."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.protocol.plan.signatures import Signed
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError
from edgenode.security.certificates import make_authority
from edgenode.security.signing import AuthoritySigner, AuthorityVerifier

AUTHORITY = make_authority("home")
SIGNER, VERIFIER = AuthoritySigner(AUTHORITY), AuthorityVerifier(AUTHORITY.certificate)
PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), 1), run_id="r1")
STOP = PLAN.successor(20, end=20, term=1)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def signed(record: Record) -> Record:
    return replace(record, signature=SIGNER.sign(record.statement))


def test_signed_record_and_greeting_are_believed() -> None:
    VERIFIER.verify(Record.from_json(signed(STOP).to_json()))
    greeting = Leadership(3, "abc", "10.0.0.5:7700", "r1")
    greeting = replace(greeting, signature=SIGNER.sign(greeting.statement))
    VERIFIER.verify(replace(greeting, address="as the node dialled it:7700"))
    with pytest.raises(RemoteProtocolError):
        VERIFIER.verify(replace(greeting, term=1_000_000))
    with pytest.raises(RemoteProtocolError):  # a greeting of another run
        VERIFIER.verify(replace(greeting, run_id="r2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": "away"},
        {"run_id": "r2"},
        {"term": 2},
        {"number": 2},
        {"parent": "0" * 64},
        {"start": 21},
        {"end": None},
        {"evictions": (("n1", 3),)},
        {"handoffs": (("n1", "n0"),)},
        {"members": (Member("n0"), Member("n1", 1))},
        {"signature": ""},
        {"signature": "not base64"},
        {"signature": "QUJD"},
        pytest.param({"signature": SIGNER.sign("another text")}, id="signature of another text"),
        pytest.param({"signature": SIGNER.sign(Leadership(1).statement)}, id="signature of a greeting"),
    ],
    ids=str,
)
def test_changed_record_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError, match="authority"):
        VERIFIER.verify(replace(signed(STOP), **changes))  # type: ignore[arg-type]


def test_record_of_another_authority_is_refused() -> None:
    other: Signed = replace(STOP, signature=AuthoritySigner(make_authority("home")).sign(STOP.statement))
    with pytest.raises(RemoteProtocolError, match="did not sign"):
        VERIFIER.verify(other)


def test_rewritten_signature_makes_no_other_record() -> None:
    r, s = decode_dss_signature(base64.b64decode(signed(STOP).signature))
    rewritten = replace(STOP, signature=base64.b64encode(encode_dss_signature(r, P256_ORDER - s)).decode())
    VERIFIER.verify(rewritten)
    assert rewritten.digest == signed(STOP).digest == STOP.digest
    assert Plan((*PLAN.records, signed(STOP))) == PLAN.extend(rewritten)
