"""Two configurations are compared key by key, and a text from outside is judged before it is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.config.load import load
from edgenode.config.schema import KEYS, LOCAL_KEYS, Config
from edgenode.core.canonical import MAX_LENGTH, canonical, differences, digest
from tests.config.values import another

OURS = Config().shared(rounds=True)


def against(other: str) -> str:
    return differences(OURS, other, digest(other))


def test_equal_configurations_have_no_differences() -> None:
    assert against(OURS) == ""


@pytest.mark.parametrize("key", [key for key in KEYS if key not in LOCAL_KEYS])
def test_every_shared_key_is_named_with_both_values(key: str) -> None:
    assert f"{key} is " in against(load(None, another(key), {}).shared(rounds=True))


def test_unset_absent_and_long_values_are_shown_in_one_line() -> None:
    theirs = json.loads(OURS) | {"task.alpha": 0.5, "task.new": 1, "topology.graphs": ["\n" * 100]}
    del theirs["run.window"]
    shown = against(canonical(theirs))
    assert shown.startswith(
        "run.window is 8, not absent; task.alpha is unset, not 0.5; task.new is absent, not 1; topology.graphs is "
    )
    assert shown.endswith("...")
    assert shown.isprintable()
    assert len(shown) < 200


def test_many_differences_are_counted() -> None:
    shown = against(canonical(dict.fromkeys(json.loads(OURS), "x")))
    assert shown.count("; ") == 8
    assert shown.endswith(f"; and {len(json.loads(OURS)) - 8} more")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", '"x"', "[" * 60_000, "x" * (MAX_LENGTH + 1)])
def test_malformed_text_from_outside_gives_no_differences(text: str) -> None:
    assert against(text) == ""


@given(st.text())
def test_text_without_the_claimed_digest_is_not_believed(text: str) -> None:
    assert differences(OURS, text, digest(text + "x")) == ""


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@given(values)
def test_any_json_from_outside_gives_printable_text_of_limited_length(value: object) -> None:
    text = against(json.dumps(value))
    assert text.isprintable()
    assert len(text) < 9 * 264
