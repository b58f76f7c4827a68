"""What a submitter may ask, in the words of the OpenAI API, and how it becomes one `Generate`. Pure.

Every field is either honoured, or harmless and ignored, or refused by name: nothing that changes an answer is passed
over in silence. The list is docs/reference/http-api.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from wanspec_p2p.errors import ContextTooLong, InvalidRequest
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Token
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.types import Privacy, Sampling

__all__ = ["Asked", "UnsupportedParameter", "parse_chat", "parse_completion", "seed_bytes"]

IGNORED = frozenset(
    {"metadata", "parallel_tool_calls", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
)
"""Fields that clients send and that cannot change a token."""
HARMLESS: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "functions": ([],),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),  # there are no tools to choose from
    "tools": ([],),
}
"""Fields we do not support, and the values that ask for nothing."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for /v1/completions alone; a chat answer may fill the context."""

TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=20)]
MaxTokens = Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_PROMPT_TOKENS)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Text = Annotated[str, msgspec.Meta(max_length=limits.MAX_TEXT)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_NAME)]


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class _Part(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: Text


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[_Part]
    name: str | None = None  # OpenAI's; chat templates have no place for it


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # taken as include_usage: prompt tokens are known at the end
    include_obfuscation: bool = False  # padding against traffic analysis; not done, changes no token


class _Extension(msgspec.Struct, forbid_unknown_fields=True):
    """Our own knobs: `"wanspec": {…}`."""

    privacy: Privacy = Privacy.PUBLIC
    network: bool = True
    seed: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None  # as an answer returned it
    committed: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_PROMPT_TOKENS)] = ()


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: ModelName
    stream: bool = False
    stream_options: _StreamOptions = msgspec.field(default_factory=_StreamOptions)
    max_tokens: MaxTokens | None = None
    stop: Stop | Annotated[tuple[Stop, ...], msgspec.Meta(max_length=limits.MAX_STOPS)] = ()
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: float = 1.0  # OpenAI's default
    top_p: float = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=-1)] = 0  # -1 is vLLM's way to say off
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Annotated[dict[int, float], msgspec.Meta(max_length=1024)] = {}
    ignore_eos: bool = False
    wanspec: _Extension = msgspec.field(default_factory=_Extension)


class _ChatRequest(_Request, forbid_unknown_fields=True, kw_only=True):
    messages: Annotated[tuple[_Message, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None


class _CompletionRequest(_Request, forbid_unknown_fields=True, kw_only=True):
    prompt: Text | Annotated[list[Text | Token], msgspec.Meta(min_length=1, max_length=limits.MAX_PROMPT_TOKENS)]
    logprobs: TopLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is within its bounds."""

    model: str
    generate: Generate
    stream: bool
    include_usage: bool
    chat: bool


R = TypeVar("R", bound=_Request)


def parse_chat(body: bytes, *, request: str, random_seed: Callable[[], bytes]) -> Asked:
    """A chat completion.

    Args:
        request: the name the request gets.
        random_seed: 16 random bytes, for requests that bring no seed.

    Raises:
        InvalidRequest: with the field at fault; UnsupportedParameter for one we do not offer.
        ContextTooLong: more than a control link carries.
    """
    asked = _read(body, _ChatRequest)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    generate = Generate(
        request=request,
        seed=_seed(asked, random_seed),
        sampling=_sampling(asked),
        max_tokens=asked.max_completion_tokens or asked.max_tokens,
        messages=tuple(_chat_message(message) for message in asked.messages),
        top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        **_common(asked),
    )
    return _asked(asked, generate, chat=True)


def parse_completion(body: bytes, *, request: str, random_seed: Callable[[], bytes]) -> Asked:
    """A text completion: `prompt` is a string, a list of one string, or a list of token ids. As `parse_chat`."""
    asked = _read(body, _CompletionRequest)
    prompt = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    ids = tuple(entry for entry in prompt if isinstance(entry, int))
    texts = [entry for entry in prompt if isinstance(entry, str)]
    if len(texts) > 1 or (texts and ids):
        raise InvalidRequest("one prompt a request: a string, or a list of token ids", param="prompt")
    generate = Generate(
        request=request,
        seed=_seed(asked, random_seed),
        sampling=_sampling(asked),
        max_tokens=asked.max_tokens or DEFAULT_COMPLETION_TOKENS,
        prompt=texts[0] if texts else None,
        prompt_ids=ids,
        top_logprobs=asked.logprobs,
        **_common(asked),
    )
    return _asked(asked, generate, chat=False)


def _read(body: bytes, kind: type[R]) -> R:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    if "model" not in fields:
        raise InvalidRequest("model is missing: name one of /v1/models", param="model")
    try:
        return msgspec.convert(_supported(fields, kind), kind, str_keys=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _invalid(str(error)) from error


def _supported(fields: dict[str, Any], kind: type[R]) -> dict[str, Any]:
    """The fields that mean something; null is the same as absent.

    Raises:
        UnsupportedParameter: a field that would have to change the answer, and cannot.
    """
    known = kind.__struct_fields__
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None or name in IGNORED:
            continue
        if name in known:
            kept[name] = value
        elif name not in HARMLESS or value not in HARMLESS[name]:
            raise UnsupportedParameter(f"{name[:64]} is not supported", param=name[:64])
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_without_empty(message) for message in kept["messages"]]
    return kept


def _without_empty(message: object) -> object:
    """Clients send back the assistant's messages as they came, with `"refusal": null` and the like."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if name == "content" or value not in (None, [])}


def _invalid(message: str) -> InvalidRequest:
    """msgspec's words, with the field taken out of its path: "… - at `$.messages[0].role`"."""
    words, _, place = message.partition(" - at ")
    param = place.rpartition("`$")[2].strip("`").lstrip(".") or None
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", words, re.DOTALL)
    if unknown:
        name = ".".join(filter(None, (param, unknown[1])))[:128]
        return UnsupportedParameter(f"{name} is not supported", param=name)
    return InvalidRequest(f"{param}: {words}" if param else words, param=param)


def _seed(asked: _Request, random_seed: Callable[[], bytes]) -> bytes:
    if asked.wanspec.seed is not None:
        return bytes.fromhex(asked.wanspec.seed)
    return random_seed() if asked.seed is None else seed_bytes(asked.seed)


def _sampling(asked: _Request) -> Sampling:
    try:
        return Sampling(
            temperature=asked.temperature,
            top_k=max(asked.top_k, 0),
            top_p=asked.top_p,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            logit_bias=tuple(sorted(asked.logit_bias.items())),
            min_tokens=asked.min_tokens,
        )
    except ValueError as error:
        raise InvalidRequest(str(error), param=str(error).partition(" ")[0]) from error


def _common(asked: _Request) -> dict[str, Any]:
    return {
        "stop": (asked.stop,) if isinstance(asked.stop, str) else asked.stop,
        "ignore_eos": asked.ignore_eos,
        "privacy": asked.wanspec.privacy,
        "committed": asked.wanspec.committed,
        "network": asked.wanspec.network,
    }


def _chat_message(message: _Message) -> ChatMessage:
    text = message.content if isinstance(message.content, str) else "\n".join(part.text for part in message.content)
    role = "system" if message.role == "developer" else message.role  # OpenAI's newer name for the same
    return ChatMessage(role=role, content=text)


def _asked(asked: _Request, generate: Generate, *, chat: bool) -> Asked:
    _check_fits(generate)
    options = asked.stream_options
    usage = options.include_usage or options.continuous_usage_stats
    return Asked(asked.model, generate, asked.stream, usage, chat)


def _check_fits(generate: Generate) -> None:
    """A target hangs up on a message beyond its bounds, and every answer on that link would end: so look first."""
    try:
        frame = msgspec.json.encode(generate)
        if len(frame) > limits.MAX_FRAME_BYTES:
            raise ContextTooLong(f"the prompt takes {len(frame)} bytes; at most {limits.MAX_FRAME_BYTES} can be sent")
        msgspec.json.decode(frame, type=Generate)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except UnicodeError as error:
        raise InvalidRequest("the prompt is not valid Unicode: it holds half of a surrogate pair") from error


def seed_bytes(seed: int) -> bytes:
    """The 16 bytes that a request's integer seed stands for (docs/topics/exactness.md)."""
    data = b"wanspec.seed" + seed.to_bytes(8, "little", signed=True)
    return hashlib.blake2b(data, digest_size=16).digest()
