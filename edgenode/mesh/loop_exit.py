"""Finds out how a loop ended: by break or return, or by an exception that unwinds it.

A generator that is closed cannot see which of them it was. The frame of the loop shows it: break and return drop the
iterator by a special instruction, and an exception wherever it was raised. An iterator that a framework advances is
dropped with the framework, by code that knows nothing of it.
"""

from __future__ import annotations

import dis
import inspect
from types import CodeType, FrameType

_DROPS_AN_ITERATOR = ("POP_TOP", "POP_ITER")
_SUSPENDED = ("YIELD_VALUE", "RESUME", "RESUME_CHECK", "JUMP_BACKWARD_NO_INTERRUPT", "SEND")


def advancing(frame: FrameType | None) -> tuple[CodeType, ...]:
    """Return the code that takes an item of an iterator, and of what it takes it through.

    Args:
        frame: the caller of the iterator's ``next``.
    """
    codes = list[CodeType]()
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back if frame.f_code.co_flags & inspect.CO_GENERATOR else None
    return tuple(codes)


def is_left_on_purpose(frame: FrameType | None, advanced_by: tuple[CodeType, ...]) -> bool:
    """Return whether a ``for`` statement drops its iterator because of break or return, not because of an exception.

    Args:
        frame: the caller of the iterator's ``close``. A generator around the iterator, such as a progress bar, is
            suspended, and dropped by the next frame.
        advanced_by: the code that took the last item, from `advancing`. Other code does not leave the loop.
    """
    if frame is None or frame.f_code not in advanced_by:
        return False
    while frame is not None:
        instruction = dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if instruction not in _SUSPENDED:
            return instruction in _DROPS_AN_ITERATOR
        frame = frame.f_back
    return False
