"""Every test that SECURITY.md names exists, and docs/security-model.md shows who may call what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgenode.security.access import ACCESS
from edgenode.security.subject import Role

_NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", Path("SECURITY.md").read_text())))
_COLUMNS: tuple[Role, ...] = ("node", "relay", "controller", "operator", "viewer")


@pytest.mark.parametrize(("file", "name"), _NAMED)
def test_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", Path(file).read_text(), re.MULTILINE)


def test_many_are_named() -> None:
    assert len(_NAMED) > 20


def test_page_shows_who_may_call_what() -> None:
    shown = {}
    for line in re.findall(r"^\| \w+Service: .*$", Path("docs/security-model.md").read_text(), re.MULTILINE):
        methods, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        service, _, names = methods.partition(": ")
        roles = {role for role, cell in zip(_COLUMNS, cells, strict=True) if cell == "yes"}
        shown.update({f"/edgenode.v1.{service}/{name}": roles for name in names.split(", ")})
    assert shown == {method: roles for method, roles in ACCESS.items() if method.startswith("/edgenode.v1.")}
