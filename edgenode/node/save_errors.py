"""Keeps what a node cannot save, and since when. The node continues to train."""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger()


class SaveErrors:
    """The kinds of files that cannot be written at present, with their errors."""

    def __init__(self) -> None:
        self._errors: dict[str, tuple[float, str]] = {}  # kind -> since when, and the newest error

    def failed(self, kind: str, error: str) -> None:
        """A file could not be written. The first failure of its kind is logged."""
        if kind not in self._errors:
            log.warning("training continues without saving", what=kind, reason=error)
        self._errors[kind] = self._errors.get(kind, (time.monotonic(), ""))[0], error

    def worked(self, kind: str) -> None:
        """A file of this kind was written."""
        if self._errors.pop(kind, None):
            log.info("saving works again", what=kind)

    def longest(self) -> tuple[str, float]:
        """The error that has lasted longest, and its seconds. Empty and 0 if all can be written."""
        if not self._errors:
            return "", 0.0
        since, error = min(self._errors.values())
        return error, time.monotonic() - since
