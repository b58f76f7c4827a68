"""A request under way, and what it has said: the same request, asked for again, is given the rest.

A coordinator that was killed has forgotten its answers, and the targets have not. Whoever asks again brings seed,
prompt and the token ids received so far, which is all that decides the tokens to come: so a request is known by its
content, under whatever name it comes (docs/decisions/0018-a-broken-answer-is-asked-for-again.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Tokens
from wanspec_p2p.types import TokenId

__all__ = ["Said", "Underway"]

Said: TypeAlias = Tokens | Finished | Failed


class Underway:
    """Call it with what is to be said.

    Args:
        request: as it was asked for first.
        say: where it is said, while somebody listens.

    Attributes:
        name: what the request is called now.
        task: the one that answers it; set by whoever starts it.
        deadline: ends it unless somebody has asked for it again by then; None while somebody listens.
    """

    def __init__(self, request: Generate, say: Callable[[Said], None]) -> None:
        self.name = request.request
        self.task: asyncio.Task[None]
        self.deadline: asyncio.TimerHandle | None = None
        self._request, self._say = request, say
        self._said: list[Said] = []

    def __call__(self, message: Said) -> None:
        self._said.append(message)
        if self.deadline is None:
            self._say(msgspec.structs.replace(message, request=self.name))

    def continues(self, request: Generate) -> bool:
        """Whether this is the rest of that request: the same question, and tokens that were said here up to there."""
        if self.task.cancelling() or (self._said and isinstance(self._said[-1], Failed)):
            return False  # it will not come to a good end: better to begin anew
        return _question(request) == _question(self._request) and self._place(request.committed) is not None

    def resume(self, request: Generate) -> None:
        """Somebody listens again: say what comes after the tokens that `request` has, and go on from there."""
        place = self._place(request.committed)
        assert place is not None  # it continues that request
        self.name = request.request
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        for message in self._said[place:]:
            self._say(msgspec.structs.replace(message, request=self.name))

    def _place(self, committed: Sequence[TokenId]) -> int | None:
        """Index of the first message after these tokens; None where no message begins there, or they are others."""
        position = len(self._request.committed)
        if tuple(committed[:position]) != self._request.committed:
            return None
        for index, message in enumerate(self._said):
            if position == len(committed) or not isinstance(message, Tokens):
                return index if position == len(committed) else None
            if message.echo:
                continue  # of the prompt
            end = position + len(message.ids)
            if tuple(committed[position:end]) != message.ids:
                return None
            position = end
        return len(self._said) if position == len(committed) else None


def _question(request: Generate) -> Generate:
    return msgspec.structs.replace(request, request="any", committed=())
