"""How many connections a limit of open files allows."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from edgenode.net.open_files import FILES_OF_A_LINK

SHOW = """
import resource
from edgenode.net.open_files import places_for_links, places_for_requests
links, requests = places_for_links(), places_for_requests(512)
found = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(found, links._strangers._most, links._most_proven, requests._strangers._most)
"""


def shown(soft: int, hard: int) -> list[int]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, preexec_fn=limit)
    return [int(word) for word in done.stdout.split()]


def test_soft_limit_is_raised_to_the_hard_one() -> None:
    assert shown(1024, 4096)[0] == 4096


@pytest.mark.parametrize("limit", [1024, 4096, 16384])
def test_connections_leave_files_for_the_disk(limit: int) -> None:
    found, strangers, proven, of_page = shown(limit, limit)
    assert found == limit
    assert (strangers, of_page) == (min(192, limit // 32),) * 2
    of_links = FILES_OF_A_LINK * (2 * strangers + proven)
    assert of_links + 2 * of_page <= limit - 256  # page and enrolments
    assert proven >= 170
