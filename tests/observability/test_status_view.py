"""What people read of a status."""

from __future__ import annotations

import pytest

from edgenode.observability.status_view import less_than_uncompressed


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (0.5, "2.0 times as much as uncompressed"),
        (1.0, "as much as uncompressed"),
        (1.04, "as much as uncompressed"),
        (1.33, "1.3 times less than uncompressed"),
        (67.4, "67 times less than uncompressed"),
    ],
)
def test_compression_is_a_sentence_that_is_true(factor: float, text: str) -> None:
    assert less_than_uncompressed(factor) == text
