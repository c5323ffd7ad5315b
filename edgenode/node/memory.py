"""How the C library handles memory."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # <malloc.h>
_MOST_MMAP_THRESHOLD, _NEVER = 32 * 2**20, 2**31 - 1  # bytes; glibc refuses a higher one


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: every training step wants the same buffers again.

    glibc gives large ones back to the kernel, and getting them anew, page by page, costs a tenth of ResNet-20's step.
    Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _NEVER)
