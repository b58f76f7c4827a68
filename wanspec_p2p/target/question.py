"""A request in the target's own terms: the ids of its prompt, how long its answer may be, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanspec_p2p.errors import ContextTooLong, InvalidRequest
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.target.engine import Engine, to_its_end
from wanspec_p2p.types import FinishReason, SessionId, TokenId

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Question", "Reader"]

LONG_TEXT = 4096
"""Characters. Up to so many a tokenizer takes some milliseconds; with hundreds of thousands it takes seconds."""


class Reader:
    """Makes the ids of prompts. Long ones are read in a thread, so that nobody else waits for them.

    Texts are read one at a time: a tokenizer is set up anew for each, and would mix two up.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._turn = asyncio.Lock()

    async def ids(self, request: Generate) -> Sequence[TokenId]:
        """Cancelled while a thread reads, it ends only when that has.

        Raises:
            InvalidRequest: no prompt, several, or one that the model's template refuses.
        """
        if bool(request.messages) + (request.prompt is not None) + bool(request.prompt_ids) != 1:
            raise InvalidRequest("give exactly one of messages, prompt and prompt token ids")
        if request.prompt_ids:
            return request.prompt_ids
        if request.messages and not any(message.content for message in request.messages):
            raise InvalidRequest("the messages are empty", param="messages")  # a template makes tokens of nothing, too
        async with self._turn:
            if len(request.prompt or "") + sum(len(m.role) + len(m.content) for m in request.messages) <= LONG_TEXT:
                return self._read(request)
            reading = asyncio.create_task(asyncio.to_thread(self._read, request), name="long prompt")
            await to_its_end(reading)
            return reading.result()

    def _read(self, request: Generate) -> list[TokenId]:
        try:
            if request.prompt is not None:
                return self._tokenizer.encode(request.prompt)
            return self._tokenizer.encode_chat([(m.role, m.content) for m in request.messages])
        except StopIteration as error:  # no future can carry one: who waits for the thread would wait for ever
            raise RuntimeError("the tokenizer broke off") from error


@dataclass(frozen=True, slots=True)
class Question:
    """Made by `Question.of`.

    Attributes:
        prompt: its token ids.
        max_tokens: the whole answer may have, with those of it that there are already.
        stop_tokens: any of them ends it.
    """

    request: Generate
    prompt: tuple[TokenId, ...]
    max_tokens: int
    stop_tokens: tuple[TokenId, ...]
    vocab_size: int

    @classmethod
    def of(cls, request: Generate, prompt: Sequence[TokenId], engine: Engine) -> Self:
        """Args:
            prompt: the ids `Reader` made of it.

        Raises:
            InvalidRequest: in words the submitter understands.
            ContextTooLong: the answer would have not even one token.
        """
        info = engine.model.info
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        max_tokens = _length(request, prompt, engine.context)
        if any(token >= info.vocab_size for token in (*prompt, *request.committed)):
            raise InvalidRequest(f"token ids must be below {info.vocab_size}", param="prompt")
        return cls(
            request=request,
            prompt=tuple(prompt),
            max_tokens=max_tokens,
            stop_tokens=() if request.ignore_eos else info.eos,
            vocab_size=info.vocab_size,
        )

    def already_over(self, *, stopped: bool) -> FinishReason | None:
        """How an answer ended whose target was lost after its last token and before it said so.

        Args:
            stopped: a stop string is in the tokens there are.
        """
        if stopped or not set(self.stop_tokens).isdisjoint(self.request.committed):
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.request.committed) >= self.max_tokens else None

    def spec(self, session: SessionId) -> SessionSpec:
        request = self.request
        return SessionSpec(
            session=session,
            prompt=self.prompt,
            seed=request.seed,
            sampling=request.sampling,
            vocab_size=self.vocab_size,
            max_tokens=self.max_tokens,
            committed=request.committed,
            stop_tokens=self.stop_tokens,
            top_logprobs=request.top_logprobs,
        )


def _length(request: Generate, prompt: Sequence[TokenId], context: int) -> int:
    if len(prompt) >= context:
        raise ContextTooLong(
            f"the prompt has {len(prompt)} tokens; this model's context holds {context}, answer included",
            param="messages" if request.messages else "prompt",
        )
    room = context - len(prompt)
    return room if request.max_tokens is None else min(request.max_tokens, room)
