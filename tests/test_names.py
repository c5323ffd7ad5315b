"""One rule for the names of nodes and clusters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.names import MAX_LENGTH, is_name, to_name


@pytest.mark.parametrize("name", ["n0", "0", "pi-3.kitchen_2", "A", "n" * MAX_LENGTH])
def test_name_is_accepted(name: str) -> None:
    assert is_name(name)
    assert to_name(name) == name


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "../../x", ".hidden", "-n", "_n", "a b", "n0\n", "a/b", "Küche", "n" * 64, "\udcff", "\x1b[0m"],
)
def test_text_that_is_not_a_name_is_refused(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("my host", "my-host"),
        ("Küche", "K-che"),
        ("..", "node"),
        ("", "node"),
        ("x" * 99, "x" * 63),
        ("controller", "controller-node"),
    ],
)
def test_host_name_becomes_the_nearest_name(host: str, name: str) -> None:
    assert to_name(host) == name


@given(st.text())
def test_any_text_becomes_a_name(text: str) -> None:
    assert is_name(to_name(text))
