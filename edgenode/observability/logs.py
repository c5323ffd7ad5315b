"""Sets up logging to stderr, as text or as JSON."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any


def set_up_logging(verbose: bool, log_format: str = "text") -> None:
    """Log to stderr: text, coloured on a terminal, or one JSON object per line; from DEBUG on if ``verbose``."""
    import structlog

    if log_format == "json":
        stamp = structlog.processors.TimeStamper(fmt="iso")
        render: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        render = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not plain, pad_event_to=20)]
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    import stamina.instrumentation

    stamina.instrumentation.set_on_retry_hooks([])  # the links log what they wait for
