"""What a relay would carry."""

from __future__ import annotations

import re

import pytest

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.doctor import Level, traffic


def a_config(**settings: object) -> Config:
    settings = {"run.threads": 1, "run.device": "cpu", **{k.replace("__", "."): v for k, v in settings.items()}}
    return load(None, settings, environ={})


def test_amount_follows_from_a_push_a_round_and_the_edges() -> None:
    found = traffic.amount(2_600, 0.1, 8, 4)
    assert found.level is Level.OK
    assert found.text == (
        "each relayed edge would carry up to 93.6 MB an hour, and all 8 edges 748.8 MB: 2.6 kB a push with its "
        "answer, a round in 100 ms here"
    )
    assert traffic.amount(2_600, 90, 8, 4).text.endswith("a round in 1 min 30 s here")


def test_more_than_a_relay_carries_is_a_warning() -> None:
    assert traffic.amount(800_000, 0.2, 8, 4).level is Level.OK
    found = traffic.amount(1_000_000, 0.2, 8, 4)
    assert found.level is Level.WARNING and "but a relay carries 8.0 MB/s of a node" in found.text


@pytest.mark.slow
def test_push_is_that_of_the_configuration() -> None:
    (found,) = traffic.relayed(a_config(run__nodes=4, topology__graphs=["a"]))
    assert found.level is Level.OK
    assert re.search(r"and all 4 edges [\d.]+ [MG]B: \d+ B a push with its answer", found.text)
    few, many = (traffic._payload_bytes_and_round_s(a_config(algorithm__share=share))[0] for share in (0.01, 0.1))
    assert 5 < many / few < 11


def test_push_of_a_rolling_exchange_is_one_block() -> None:
    rolling = a_config(algorithm__compressor="rolling", algorithm__values="float32", algorithm__share=0.1)
    push_bytes, _ = traffic._payload_bytes_and_round_s(rolling)
    assert 4 * 1_900 < push_bytes < 4 * 2_000


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"algorithm__name": "local"}, {"task__model": "no-such"}])
def test_run_that_sends_nothing_or_cannot_be_has_no_finding(settings: dict[str, object]) -> None:
    assert list(traffic.relayed(a_config(**settings))) == []
