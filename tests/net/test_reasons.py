"""Failures of connections and calls in words: never empty, and with the clock if it is the clock."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest

from edgenode.errors import ClockError, Diverged, EdgenodeError, TransportError, in_words
from edgenode.net.reasons import failure, unreachable, why
from edgenode.net.rpc import serves, serving
from edgenode.net.tls import INSECURE, MutualTls
from edgenode.security.certificates import Credentials, make_authority, make_credentials
from edgenode.security.subject import CONTROLLER, Role, Subject

CA = make_authority("home")
NO_METADATA = grpc.aio.Metadata()


def call_error(code: grpc.StatusCode, details: str | None) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, NO_METADATA, NO_METADATA, details)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
@pytest.mark.parametrize("details", ["", None, "  \n"])
def test_call_without_details_says_what_its_status_means(code: grpc.StatusCode, details: str | None) -> None:
    kind, _, meaning = why(call_error(code, details)).partition(": ")
    assert kind == code.name.lower().replace("_", " ")
    assert meaning.strip()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncio.CancelledError(), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (TimeoutError(), "no answer in time"),
        (ValueError(), "ValueError"),
        (EdgenodeError(" "), "EdgenodeError"),
        (ExceptionGroup("group", [ValueError("first"), Diverged("at\npi-1")]), "at pi-1"),
    ],
)
def test_error_without_a_text_is_named_by_its_type(error: BaseException, words: str) -> None:
    assert in_words(error) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "a firewall drops"),
        (ConnectionRefusedError(111, "Connect call failed"), "nothing listens there, or a firewall rejects"),
        (ConnectionResetError(), "it ended the connection"),
        (OSError(113, "No route to host"), "no route to host"),
        (OSError(113, "Connect call failed ('10.0.0.5', 7700)"), "no route to host: it is off, or a firewall rejects"),
        (OSError(13, "Connect call failed ('10.0.0.5', 7700)"), "permission denied"),
        (OSError(), "OSError"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved (Name or service not known)"),
    ],
)
def test_connection_that_fails_says_why(error: OSError, words: str) -> None:
    assert words in why(error)
    assert str(failure("10.0.0.5:7700", error)).startswith("10.0.0.5:7700: ")


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("Connection refused", "connection refused: nothing listens there"),
        ("Connection timed out", "no answer: it is off, or a firewall drops"),
        ("connect() timed out", "no answer: it is off, or a firewall drops"),
        ("No route to host", "no route to host"),
        ("getsockopt(SO_ERROR): No route to host", "no route to host: it is off, or a firewall rejects it"),
        ("Network is unreachable", "network is unreachable: no way leads there from here"),
        ("Something of another system", "something of another system"),
    ],
)
def test_reason_of_tcp_is_found_in_the_text_of_grpc(details: str, words: str) -> None:
    core = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: Failed to connect to remote host: "
    )
    assert why(call_error(grpc.StatusCode.UNAVAILABLE, core + details)).startswith(words)


@pytest.mark.parametrize(
    ("core", "words"),
    [
        ("ipv4:127.0.0.1:4670: Handshake read failed (Endpoint closing)", "it ended the connection"),
        ("ipv4:10.0.0.1:1: tcp handshaker shutdown", "no answer: it is off, or a firewall drops"),
        ("Did not receive HTTP/2 settings before handshake timeout", "no answer: it is off, or a firewall drops"),
        ("recvmsg:Connection reset by peer", "it ended the connection"),
        ("Socket closed", "it ended the connection"),
        ("GOAWAY received; Error code: 2; Debug Text: Cancelling all calls", "it ended the connection"),
        (
            "ipv4:10.77.0.3:7600: Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification "
            "Check failed.",
            "a clock is wrong, or it shows a certificate of another cluster, or of another role or name; compare both",
        ),
    ],
)
def test_text_of_the_core_is_said_in_our_words(core: str, words: str) -> None:
    assert why(call_error(grpc.StatusCode.UNAVAILABLE, core)).startswith(words)


@pytest.mark.parametrize("code", ["ABORTED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"])
def test_words_of_another_process_are_shown_alone(code: str) -> None:
    assert why(call_error(grpc.StatusCode[code], "n2 relays between members only")) == "n2 relays between members only"


def test_expired_certificate_in_the_text_of_grpc_is_the_clock() -> None:
    text = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.2:7700: Ssl handshake failed "
        "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d: CERTIFICATE_VERIFY_FAILED: certificate has expired: OK"
    )
    found = failure("10.0.0.2:7700", call_error(grpc.StatusCode.UNAVAILABLE, text))
    assert isinstance(found, ClockError)
    assert f"10.0.0.2:7700: this device's clock says {datetime.now(UTC):%Y-%m-%d}" in str(found)
    assert "set the clock" in str(found)
    assert "TSI" not in str(found)


# --- real connections


def owned(role: Role, authority: Credentials = CA, life: timedelta = timedelta(days=1)) -> Credentials:
    return make_credentials(authority, CONTROLLER if role == "controller" else Subject(role, "n0"), life)


@pytest.fixture
async def controller() -> AsyncIterator[str]:
    security = MutualTls(owned("controller"), lambda subject, key_id: True)
    async with serving("127.0.0.1:0", [], 0.0, security=security) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def found(target: str, own: Credentials | None, server: str = CONTROLLER.dns_name) -> TransportError:
    return await unreachable("status", target, server, own)


@pytest.mark.slow
async def test_unreachable_controller_is_explained(controller: str, silent: str) -> None:
    ours = owned("operator")
    for error, words in (
        (await found("127.0.0.1:1", ours), "connection refused"),
        (await found("127.0.0.1:1", None), "connection refused"),
        (await found(silent, ours), "no answer: "),
        (await found(controller, owned("operator", make_authority("home"))), "a certificate of another cluster"),
        (await found(controller, ours, Subject("node", "n1").dns_name), "or of another role or name"),
        (await found(controller, ours), "but it ended the connection; if this lasts"),
        (await found(controller, None), "something listens there, but not edgenode with --insecure"),
    ):
        assert str(error).startswith("status: ")
        assert words in str(error)
        assert not isinstance(error, ClockError)


async def test_own_expired_certificate_is_the_clock(controller: str) -> None:
    late = owned("operator", life=timedelta(days=-10))
    error = await found(controller, late)
    assert isinstance(error, ClockError)
    assert f"the certificate of this device is valid until {late.expires():%Y-%m-%d}" in str(error)


async def test_expired_certificate_of_the_other_is_the_clock() -> None:
    security = MutualTls(owned("controller", life=timedelta(days=-10)), lambda subject, key_id: True)
    ours = MutualTls(owned("operator"), lambda subject, key_id: True)
    async with serving("127.0.0.1:0", [], 0.0, security=security) as port:
        target = f"127.0.0.1:{port}"
        assert isinstance(await found(target, ours.credentials), ClockError)
        with pytest.raises(ClockError, match="this device's clock says"):
            await serves(target, 2.0, ours)
        with pytest.raises(ClockError, match="this device's clock says"):
            await ours.knowing(target, CONTROLLER.dns_name, frozenset(), target, 2.0)


async def test_plain_server_to_a_client_with_tls_is_explained() -> None:
    async with serving("127.0.0.1:0", [], 0.0, security=INSECURE) as port:
        assert "no TLS handshake" in str(await found(f"127.0.0.1:{port}", owned("operator")))
