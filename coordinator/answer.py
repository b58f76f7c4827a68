"""One answer under way: what its targets have sent so far, held against what was asked for, and who waits for more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from coordinator.events import LinkId
from coordinator.openai_schema import Asked
from coordinator.records import TargetRecord
from wanspec_p2p.errors import RemoteProtocolError, RequestError, RequestTimeout
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Finished, ServedModel, Tokens
from wanspec_p2p.types import TokenId

__all__ = ["TEXT_ALONE", "TOKEN_TEXT", "Answer"]

TEXT_ALONE = 2
"""Messages without a token that one target may send for an answer: the text it still held back at its end."""
TOKEN_TEXT = 1024
"""Characters a token may have, on the average of an answer; the longest of common vocabularies have an eighth of it."""
TOP_TEXT = TOKEN_TEXT // 8
"""And each of the likeliest tokens that come with it where they were asked for."""


class Answer:
    """One request's tokens as they are committed. Iterate over it, and `close` it whatever happens.

    Args:
        stall_seconds: without a token for this long it ends with a timeout.
        release: called when nobody waits for it any more.
    """

    def __init__(
        self, asked: Asked, target: TargetRecord, stall_seconds: float, release: Callable[[Answer], None]
    ) -> None:
        self.asked = asked
        self.model: ServedModel = target.model
        self.link: LinkId = target.link
        self.ids: list[TokenId] = []
        self.resumes = 0
        self.left: set[LinkId] = set()  # where it was before; what still comes from there is late
        self.finished: Finished | None = None
        self._messages = 0  # of its targets, tokens or text
        self._characters = 0
        self._echoed = 0  # tokens of the prompt that were given back
        self._text_alone = False  # what the target held back at the end has been put
        self._stall_seconds, self._release = stall_seconds, release
        # Holds at most one answer, which the model's context bounds; a slow reader holds up nobody else.
        self._inbox: asyncio.Queue[Tokens | Finished | RequestError] = asyncio.Queue()

    @property
    def request(self) -> str:
        return self.asked.generate.request

    @property
    def longest(self) -> int:
        """Tokens the answer may have: what was asked for, or what fits the model."""
        asked = self.asked.generate.max_tokens
        return self.model.context if asked is None else min(asked, self.model.context)

    @property
    def started(self) -> bool:
        """It has a token, or one of the prompt was given back: what comes must be of the same engine."""
        return bool(self.ids or self._echoed or self.asked.generate.committed)

    def remaining(self) -> Generate:
        """The request, from where the answer stands."""
        generate = self.asked.generate
        return msgspec.structs.replace(generate, committed=(*generate.committed, *self.ids))

    def move(self, heir: TargetRecord) -> None:
        """From now on it is this target's."""
        self.left.add(self.link)
        self.link, self.model = heir.link, heir.model
        self.resumes += 1

    # What its target sends

    def take(self, message: Tokens) -> None:
        """Raises RemoteProtocolError for tokens out of order, as the answer could not be trusted any more, and for more
        than was asked for: what waits for a slow reader must have an end."""
        if message.echo:
            self._echo(message)
            return
        due = len(self.asked.generate.committed) + len(self.ids)
        if message.position != due:
            raise RemoteProtocolError(f"token {due} of a request was due, token {message.position} came")
        characters = len(message.text) + self._scored(message)
        if not message.ids:
            if self._text_alone and self.left:
                return  # the target before had sent the end of the text, and was lost before it finished
            self._text_alone = True
        self._messages += 1
        self._characters += characters
        messages = self.longest + TEXT_ALONE * (self.resumes + 1)
        too_many = bool(message.ids) and due + len(message.ids) > self.longest  # text alone may follow the last token
        if too_many or self._messages > messages or self._characters > self.longest * self._token_text:
            raise RemoteProtocolError(f"an answer of at most {self.longest} tokens did not end")
        self.ids.extend(message.ids)
        self.put(message)

    @property
    def _token_text(self) -> int:
        """Characters that may come with one; its log-probability, where that was asked for, has its text once more."""
        top = self.asked.generate.top_logprobs
        return TOKEN_TEXT if top is None else 2 * TOKEN_TEXT + top * TOP_TEXT

    def _scored(self, message: Tokens) -> int:
        """Characters of its log-probabilities, of which there are no more than were asked for."""
        top = self.asked.generate.top_logprobs
        if top is None and message.logprobs:
            raise RemoteProtocolError("log-probabilities came for a request that asked for none")
        if any(len(entry.top) > (top or 0) for entry in message.logprobs):
            raise RemoteProtocolError(f"more than the {top} likeliest tokens came that a request asked for")
        return sum(len(entry.text) + sum(len(text) for _, text, _ in entry.top) for entry in message.logprobs)

    def _echo(self, message: Tokens) -> None:
        """Tokens of the prompt. A target that takes the answer over before its first token begins again."""
        end = message.position + len(message.ids)
        if end <= self._echoed:
            return
        generate = self.asked.generate
        wanted = generate.echo and (generate.top_logprobs is not None or not message.logprobs)
        if not wanted or message.position != self._echoed or end > self.model.context:
            raise RemoteProtocolError("a prompt came back that was not asked for, or not in order")
        if len(message.text) + self._scored(message) > len(message.ids) * self._token_text:
            raise RemoteProtocolError("a prompt came back with more text than tokens have")
        self._echoed = end
        self.put(message)

    def put(self, item: Tokens | Finished | RequestError) -> None:
        """For whoever iterates."""
        self._inbox.put_nowait(item)

    # Who waits for it

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Tokens:
        """The next tokens; when there are no more, `finished` is set.

        Raises:
            RequestError: the answer failed; the exception says how.
        """
        if self.finished is not None:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._stall_seconds):
                item = await self._inbox.get()
        except TimeoutError as error:
            raise RequestTimeout(f"the target sent nothing for {self._stall_seconds:g} s") from error
        if isinstance(item, RequestError):
            raise item
        if isinstance(item, Tokens):
            return item
        # The target that finished it knows nothing of what others sent before.
        usage = msgspec.structs.replace(item.usage, completion_tokens=len(self.ids))
        self.finished = msgspec.structs.replace(item, usage=usage)
        raise StopAsyncIteration

    def close(self) -> None:
        """Forget the answer; the target is told at once if it still works on it."""
        self._release(self)
