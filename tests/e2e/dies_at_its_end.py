"""A node whose process dies when it has mixed its last round and answered the others, but has written no result."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from edgenode.cli import main
from edgenode.node.node_runner import NodeRunner

_ANSWERED_S = 2.0  # without its answers, the others do not end


async def die(self: NodeRunner, finish: Any) -> None:
    """In place of the evaluation of the final model."""
    await asyncio.sleep(_ANSWERED_S)
    os._exit(9)


if __name__ == "__main__":
    NodeRunner._finish = die  # type: ignore[method-assign]
    main()
