"""Finds out how a loop ended: by break or return, or by an exception that unwinds it.

A generator that is closed cannot see which of them it was. The frame of the loop shows it: break and return drop the
iterator by a special instruction, and an exception wherever it was raised.
"""

from __future__ import annotations

import dis
from types import FrameType

_DROPS_AN_ITERATOR = ("POP_TOP", "POP_ITER")
_SUSPENDED = ("YIELD_VALUE", "RESUME", "RESUME_CHECK", "JUMP_BACKWARD_NO_INTERRUPT", "SEND")


def is_left_on_purpose(frame: FrameType | None) -> bool:
    """Return whether a ``for`` statement drops its iterator because of break or return, not because of an exception.

    Args:
        frame: the caller of the iterator's ``close``. A generator around the iterator, such as a progress bar, is
            suspended, and dropped by the next frame.
    """
    while frame is not None:
        instruction = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if instruction not in _SUSPENDED:
            return instruction in _DROPS_AN_ITERATOR
        frame = frame.f_back
    return False
