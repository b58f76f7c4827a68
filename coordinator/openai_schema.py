"""What a submitter may ask, in the words of the OpenAI API, and how it becomes a `Generate`. Pure.

Every field is either honoured, or harmless and ignored, or refused by name: nothing that changes an answer is passed
over in silence. The list is docs/reference/http-api.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from coordinator.openai_fields import ChatFields, CompletionFields, Fields, Message, invalid, read
from wanspec_p2p.errors import ContextTooLong, InvalidRequest, UnsupportedParameter
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.types import Sampling

__all__ = ["Asked", "parse_chat", "parse_completion", "seed_bytes"]

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for /v1/completions alone; a chat answer may fill the context."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for one answer that is within its bounds."""

    model: str
    generate: Generate
    stream: bool
    include_usage: bool
    chat: bool
    fingerprint: str | None = None  # of the engine that must answer; None: any that serves the model


def parse_chat(body: bytes, *, request: str, random_seed: Callable[[], bytes]) -> Asked:
    """A chat completion.

    Args:
        request: the name the request gets.
        random_seed: 16 random bytes, for requests that bring no seed.

    Raises:
        InvalidRequest: with the field at fault; UnsupportedParameter for one we do not offer.
        ContextTooLong: more than a control link carries.
    """
    fields = read(body, ChatFields)
    if fields.top_logprobs and not fields.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    wanted, name = fields.max_completion_tokens, "max_completion_tokens"
    if wanted is None:
        wanted, name = fields.max_tokens, "max_tokens"
    if wanted == 0:
        raise InvalidRequest(f"{name} must be at least 1", param=name)
    generate = Generate(
        request=request,
        seed=_seed(fields, random_seed),
        sampling=_sampling(fields),
        max_tokens=None if wanted is None else _held(wanted),
        messages=tuple(_chat_message(message) for message in fields.messages),
        top_logprobs=(fields.top_logprobs or 0) if fields.logprobs else None,
        **_common(fields),
    )
    return _asked(fields, generate, chat=True)


def parse_completion(body: bytes, *, request: str, random_seed: Callable[[], bytes]) -> tuple[Asked, ...]:
    """A text completion, as `parse_chat`: one entry a prompt, the second and later ones named `request` and a number.

    `prompt` is a string, a list of token ids, or a list of either; all prompts have the same seed.
    """
    fields = read(body, CompletionFields)
    prompts = fields.prompts
    _check_together(fields, len(prompts))
    seed = _seed(fields, random_seed)
    return tuple(
        _asked(
            fields,
            Generate(
                request=f"{request}-{number}" if number else request,
                seed=seed,
                sampling=_sampling(fields),
                max_tokens=DEFAULT_COMPLETION_TOKENS if fields.max_tokens is None else _held(fields.max_tokens),
                prompt=prompt if isinstance(prompt, str) else None,
                prompt_ids=() if isinstance(prompt, str) else tuple(prompt),
                top_logprobs=fields.logprobs,
                echo=fields.echo,
                **_common(fields),
            ),
            chat=False,
        )
        for number, prompt in enumerate(prompts)
    )


def _check_together(fields: CompletionFields, prompts: int) -> None:
    """What is refused in some company only."""
    if fields.max_tokens == 0 and not fields.echo:
        raise InvalidRequest("max_tokens must be at least 1, or there is nothing but an echo", param="max_tokens")
    if fields.echo and fields.wanspec.committed:
        raise InvalidRequest("an answer that goes on has shown its prompt before", param="echo")
    if prompts > 1 and fields.stream:
        raise UnsupportedParameter("a stream of several prompts is not supported: one prompt a stream", param="stream")
    if prompts > 1 and fields.wanspec.committed:
        raise InvalidRequest("an answer that goes on has one prompt", param="wanspec.committed")


def _held(max_tokens: int) -> int:
    """No context holds more, so it asks for the same; the target cuts to what its own leaves."""
    return min(max_tokens, limits.MAX_PROMPT_TOKENS)


def _seed(fields: Fields, random_seed: Callable[[], bytes]) -> bytes:
    if fields.wanspec.seed is not None:
        return bytes.fromhex(fields.wanspec.seed)
    return random_seed() if fields.seed is None else seed_bytes(fields.seed)


def _sampling(fields: Fields) -> Sampling:
    try:
        return Sampling(
            temperature=fields.temperature,
            top_k=max(fields.top_k, 0),
            top_p=fields.top_p,
            repetition_penalty=fields.repetition_penalty,
            presence_penalty=fields.presence_penalty,
            frequency_penalty=fields.frequency_penalty,
            logit_bias=tuple(sorted(fields.logit_bias.items())),
            min_tokens=fields.min_tokens,
        )
    except ValueError as error:
        raise InvalidRequest(str(error), param=str(error).partition(" ")[0]) from error


def _common(fields: Fields) -> dict[str, Any]:
    return {
        "stop": (fields.stop,) if isinstance(fields.stop, str) else fields.stop,
        "ignore_eos": fields.ignore_eos,
        "privacy": fields.wanspec.privacy,
        "committed": fields.wanspec.committed,
        "network": fields.wanspec.network,
    }


def _chat_message(message: Message) -> ChatMessage:
    text = message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
    role = "system" if message.role == "developer" else message.role  # OpenAI's newer name for the same
    return ChatMessage(role=role, content=text)


def _asked(fields: Fields, generate: Generate, *, chat: bool) -> Asked:
    _check_fits(generate)
    if generate.max_tokens is not None and len(generate.committed) > generate.max_tokens:
        raise InvalidRequest(
            f"wanspec.committed has {len(generate.committed)} tokens, more than the {generate.max_tokens} that the "
            "whole answer may have: give the max_tokens it began with",
            param="wanspec.committed",
        )
    options = fields.stream_options
    usage = options.include_usage or options.continuous_usage_stats
    return Asked(fields.model, generate, fields.stream, usage, chat, fields.wanspec.fingerprint)


def _check_fits(generate: Generate) -> None:
    """A target hangs up on a message beyond its bounds, and every answer on that link would end: so look first."""
    try:
        frame = msgspec.json.encode(generate)
        if len(frame) > limits.MAX_FRAME_BYTES:
            raise ContextTooLong(f"the prompt takes {len(frame)} bytes; at most {limits.MAX_FRAME_BYTES} can be sent")
        msgspec.json.decode(frame, type=Generate)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except UnicodeError as error:
        raise InvalidRequest("the prompt is not valid Unicode: it holds half of a surrogate pair") from error


def seed_bytes(seed: int) -> bytes:
    """The 16 bytes that a request's integer seed stands for (docs/topics/exactness.md)."""
    data = b"wanspec.seed" + seed.to_bytes(8, "little", signed=True)
    return hashlib.blake2b(data, digest_size=16).digest()
