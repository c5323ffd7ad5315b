"""Asks the controller about the keys of devices that the plan does not name, such as newcomers.

A device that calls again and again must cost little. So the calls with one key share a question, whose answer counts
for _COUNTS_S, and at most _MOST_KEYS are asked about at a time. At most _MOST_CALLS wait for answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgenode.errors import EdgenodeError, TransportError
from edgenode.net.credential_client import CredentialClient
from edgenode.net.tls import Security
from edgenode.security.subject import Subject

_COUNTS_S = 1.0
_MOST_KEYS, _MOST_CALLS = 64, 256


class Vouching:
    """The questions of one node.

    Args:
        controller: returns host:port of the controller, or "" while none is known.
    """

    def __init__(self, security: Security, controller: Callable[[], str]) -> None:
        self._security, self._controller = security, controller
        self._questions: dict[tuple[str, str], asyncio.Task[bool | EdgenodeError]] = {}
        self._waiting = 0

    async def vouches_for(self, subject: Subject, key_id: str) -> bool:
        """Return whether the controller has registered a key for a node.

        Raises:
            TransportError: it cannot be asked now, or too many calls wait.
        """
        if self._waiting >= _MOST_CALLS:
            raise TransportError(f"{_MOST_CALLS} calls wait until the controller vouches for their keys")
        self._waiting += 1
        try:
            answer = await asyncio.shield(self._question(subject.name, key_id))
        finally:
            self._waiting -= 1
        if isinstance(answer, EdgenodeError):
            raise TransportError(f"the controller cannot be asked about the key of {subject}: {answer}")
        return answer

    def _question(self, node: str, key_id: str) -> asyncio.Task[bool | EdgenodeError]:
        found = self._questions.get((node, key_id))
        if found is None:
            if len(self._questions) >= _MOST_KEYS:
                raise TransportError(f"the controller is asked about {_MOST_KEYS} keys already")
            found = self._questions[node, key_id] = asyncio.create_task(self._ask(node, key_id), name="vouching")
            found.add_done_callback(lambda _: self._forget_later(node, key_id))
        return found

    def _forget_later(self, node: str, key_id: str) -> None:
        asyncio.get_running_loop().call_later(_COUNTS_S, self._questions.pop, (node, key_id))

    async def _ask(self, node: str, key_id: str) -> bool | EdgenodeError:
        if not (target := self._controller()):
            return TransportError("none is known yet")
        try:
            return await CredentialClient(target, self._security).vouches_for(node, key_id)
        except EdgenodeError as exc:
            return exc
