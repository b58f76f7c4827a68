"""A request in the target's own terms: the ids of its prompt, how long its answer may be, and what ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wanspec_p2p.errors import ContextTooLong, InvalidRequest
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.types import FinishReason, SessionId, TokenId

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Question"]


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
    def of(cls, request: Generate, engine: Engine, tokenizer: Tokenizer) -> Self:
        """Read a request.

        Raises:
            InvalidRequest: in words the submitter understands.
            ContextTooLong: the answer would have not even one token.
        """
        info = engine.model.info
        prompt = _prompt(request, info.vocab_size, tokenizer)
        return cls(
            request=request,
            prompt=prompt,
            max_tokens=_length(request, prompt, engine.context),
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


def _prompt(request: Generate, vocabulary: int, tokenizer: Tokenizer) -> tuple[TokenId, ...]:
    if bool(request.messages) + (request.prompt is not None) + bool(request.prompt_ids) != 1:
        raise InvalidRequest("give exactly one of messages, prompt and prompt token ids")
    if request.messages:
        if not any(message.content for message in request.messages):  # a chat template makes tokens of nothing, too
            raise InvalidRequest("the messages are empty", param="messages")
        prompt: Sequence[TokenId] = tokenizer.encode_chat([(m.role, m.content) for m in request.messages])
    elif request.prompt is not None:
        prompt = tokenizer.encode(request.prompt)
    else:
        prompt = request.prompt_ids
    if not prompt:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if any(token >= vocabulary for token in (*prompt, *request.committed)):
        raise InvalidRequest(f"token ids must be below {vocabulary}", param="prompt")
    return tuple(prompt)


def _length(request: Generate, prompt: Sequence[TokenId], context: int) -> int:
    if len(prompt) >= context:
        raise ContextTooLong(
            f"the prompt has {len(prompt)} tokens; this model's context holds {context}, answer included",
            param="messages" if request.messages else "prompt",
        )
    room = context - len(prompt)
    return room if request.max_tokens is None else min(request.max_tokens, room)
