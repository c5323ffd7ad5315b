"""An invite fits one line, survives being typed, and a typing error is noticed before anything is dialled."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.cli.own_credentials import run_command
from edgenode.errors import SecurityError
from edgenode.security.invite import ENROL_PORT, PREFIX, Invite
from edgenode.security.public_address import LONGEST_HOST, PublicAddress

USUAL = Invite(bytes(range(10)), bytes(range(100, 116)), (("192.168.0.2", ENROL_PORT),))
LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
INVITES = st.builds(
    Invite,
    st.binary(min_size=10, max_size=10),
    st.binary(min_size=16, max_size=16),
    st.lists(
        st.tuples(st.ip_addresses().map(str), st.integers(0, 65_535) | st.just(ENROL_PORT)), min_size=1, max_size=3
    ).map(tuple),
    st.none()
    | st.builds(
        PublicAddress,
        st.sampled_from(
            ["run.example.org", "a.de", "a" * LONGEST_HOST, "203.0.113.10", "2001:db8::10", "abcdefgh.example"]
        ),
        st.integers(1, 65_535) | st.just(7700),
        st.integers(1, 65_535) | st.just(ENROL_PORT),
    ),
)
AFAR = replace(USUAL, public=PublicAddress("run.example.org", 7700, ENROL_PORT))


@given(INVITES)
def test_invite_survives_its_line(invite: Invite) -> None:
    assert Invite.parse(str(invite)) == invite


@pytest.mark.parametrize("port", [ENROL_PORT, 47_701])
def test_command_fits_one_line_of_a_terminal(port: int) -> None:
    invite = Invite(USUAL.secret, USUAL.authority, (("192.168.100.200", port),))
    assert len(run_command(str(invite))) <= 80
    named = run_command(str(invite), "pi-3")  # a shell reads its two lines as one command
    assert max(map(len, named.splitlines())) <= 80
    typed = subprocess.run(["sh", "-c", f"echo {named}"], capture_output=True, text=True, check=True).stdout
    assert typed == f"edgenode run --name pi-3 --join {invite}\n"


def test_invite_is_read_from_a_command_a_narrow_terminal_and_capitals() -> None:
    line = str(USUAL)
    for text in (run_command(line), f"  {line[:40]}\n  {line[40:]}\n", line.upper()):
        assert Invite.parse(text) == USUAL


def test_invite_with_a_host_name_is_short() -> None:
    assert len(str(AFAR)) <= 90
    by_ip = replace(USUAL, public=PublicAddress("203.0.113.10", 7700, ENROL_PORT))
    assert len(str(by_ip)) <= 70
    assert Invite.parse(run_command(str(AFAR))) == AFAR


def test_public_address_is_tried_first_and_once() -> None:
    assert AFAR.enrol_addresses == (("run.example.org", ENROL_PORT), ("192.168.0.2", ENROL_PORT))
    same = replace(USUAL, public=PublicAddress("192.168.0.2", 7700, ENROL_PORT))
    assert same.enrol_addresses == USUAL.addresses == USUAL.enrol_addresses


@pytest.mark.parametrize(
    "host",
    [b"", b"127.1", b"localhost", b"a b", b"A.org", b"a/b", b"a" * 64, b"\xff", b"\x1b[2J"],
    ids=["empty", "number", "loopback", "space", "capital", "path", "long", "bytes", "escape"],
)
def test_invite_with_a_name_that_is_none_is_refused(host: bytes) -> None:
    from edgenode.security import invite

    content = USUAL.authority + USUAL.secret + bytes([63, len(host)]) + host
    with pytest.raises(SecurityError, match="invite"):
        Invite.parse(PREFIX + invite._typed(content + invite._check(content)))


def test_invite_whose_public_address_is_cut_off_is_refused() -> None:
    from edgenode.security import invite

    for tail in (bytes([63, 10]) + b"run", bytes([63 | 0x80, 4]) + b"a.de\x1e", bytes([63, 4 | 0x80, 10, 0])):
        content = USUAL.authority + USUAL.secret + tail
        with pytest.raises(SecurityError, match="address in the invite"):
            Invite.parse(PREFIX + invite._typed(content + invite._check(content)))


def test_letters_that_look_alike_are_one() -> None:
    line = str(USUAL)
    assert {"0", "1"} <= {*line.removeprefix(PREFIX)}
    for typed in ("oI", "OL", "ol", "0i"):
        rest = line.removeprefix(PREFIX).replace("0", typed[0]).replace("1", typed[1])
        assert Invite.parse(PREFIX + rest) == USUAL


def test_every_wrong_letter_is_a_typing_error() -> None:
    line = str(USUAL)
    for place in range(len(PREFIX), len(line)):
        for letter in {*LETTERS} - {line[place]}:
            with pytest.raises(SecurityError, match="typing error"):
                Invite.parse(line[:place] + letter + line[place + 1 :])


def test_every_exchanged_pair_and_missing_or_doubled_letter_is_a_typing_error() -> None:
    line = str(USUAL)
    for place, (one, other) in enumerate(itertools.pairwise(line)):
        if place < len(PREFIX):
            continue
        changed = [line[:place] + line[place + 1 :], line[:place] + one + line[place:]]
        changed += [line[:place] + other + one + line[place + 2 :]] * (one != other)
        for typed in changed:
            with pytest.raises(SecurityError, match="typing error"):
                Invite.parse(typed)


def test_invite_of_a_newer_version_is_named() -> None:
    from edgenode.security import invite

    content = USUAL.authority + USUAL.secret + bytes([7]) + b"pi.home"
    with pytest.raises(SecurityError, match="newer version of edgenode"):
        Invite.parse(PREFIX + invite._typed(content + invite._check(content)))


@given(st.text(max_size=100) | st.text(LETTERS, max_size=100).map(PREFIX.__add__))
def test_damaged_invite_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(SecurityError, match="invite"):
        Invite.parse(text)
