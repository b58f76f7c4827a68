"""The fields of the OpenAI API as they come: which are read, which ask for nothing, and which are refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

import msgspec

from wanspec_p2p.errors import InvalidRequest, UnsupportedParameter
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Token
from wanspec_p2p.types import Privacy

__all__ = ["ChatFields", "CompletionFields", "Fields", "Message", "invalid", "read"]

MAX_PROMPTS = 32
"""Prompts of one text completion; each takes a place in the queue of a target."""
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that clients send and that cannot change a token."""
HARMLESS: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),  # there are no functions to choose from
    "functions": ([],),
    "modalities": (["text"],),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),  # there are no tools to choose from
    "tools": ([],),
}
"""Fields we do not support, and the values that ask for nothing."""
SEVERAL = ("best_of", "n")
"""Fields that ask for more than one answer."""
FOREIGN_ROLES = ("tool", "function")
"""Roles that belong to tools, which we do not have."""
IGNORED_IN_MESSAGES = frozenset({"cache_control"})
"""As IGNORED, in a message or a part of its content."""

TopLogprobs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_TOP_LOGPROBS)]
MaxTokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]  # what no context holds is cut in `openai_schema`
Stop: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_STOP_TEXT)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_TEXT)]
Ids: TypeAlias = Annotated[list[Token], msgspec.Meta(min_length=1, max_length=limits.MAX_PROMPT_TOKENS)]
ChatRole: TypeAlias = Literal["system", "developer", "user", "assistant"]
ALLOWED: dict[str, tuple[str, ...]] = {"privacy": tuple(Privacy), "role": get_args(ChatRole)}
"""Words a field may have, by its name; msgspec does not list them."""
OBJECTS = ("stream_options", "wanspec")
"""Fields that have fields of their own, all of them optional."""
ModelName: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_NAME)]


class Part(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["text"]
    text: Text


class Message(msgspec.Struct, forbid_unknown_fields=True):
    role: ChatRole
    content: Text | list[Part]
    name: str | None = None  # OpenAI's; chat templates have no place for it


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # taken as include_usage: prompt tokens are known at the end
    include_obfuscation: bool = False  # padding against traffic analysis; not done, changes no token


class Extension(msgspec.Struct, forbid_unknown_fields=True):
    """Our own knobs: `"wanspec": {…}`."""

    privacy: Privacy = Privacy.PUBLIC
    network: bool = True
    seed: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None  # as an answer returned it
    committed: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_PROMPT_TOKENS)] = ()
    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None  # of the engine that must answer


class Fields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both kinds of completion have."""

    model: ModelName
    stream: bool = False
    stream_options: StreamOptions = msgspec.field(default_factory=StreamOptions)
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
    wanspec: Extension = msgspec.field(default_factory=Extension)


class ChatFields(Fields, forbid_unknown_fields=True, kw_only=True):
    messages: Annotated[tuple[Message, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None


class CompletionFields(Fields, forbid_unknown_fields=True, kw_only=True):
    prompt: Text | Annotated[list[Text | Token | Ids], msgspec.Meta(min_length=1, max_length=limits.MAX_PROMPT_TOKENS)]
    logprobs: TopLogprobs | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[Token]]:
        """One or more texts, or token ids.

        Raises:
            InvalidRequest: texts and ids together, or more than `MAX_PROMPTS`.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [entry for entry in self.prompt if isinstance(entry, int)]
        prompts = [entry for entry in self.prompt if not isinstance(entry, int)]
        if ids and prompts:
            raise InvalidRequest("prompt holds token ids and whole prompts: give one or the other", param="prompt")
        if len(prompts) > MAX_PROMPTS:
            raise InvalidRequest(f"at most {MAX_PROMPTS} prompts a request, not {len(prompts)}", param="prompt")
        return [ids] if ids else prompts


R = TypeVar("R", bound=Fields)


def read(body: bytes, kind: type[R]) -> R:
    """Raises InvalidRequest with the field at fault; UnsupportedParameter for one we do not offer."""
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
        raise invalid(str(error)) from error


def _supported(fields: dict[str, Any], kind: type[R]) -> dict[str, Any]:
    """The fields that mean something; null is the same as absent."""
    known = kind.__struct_fields__
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None or name in IGNORED:
            continue
        if name in known:
            kept[name] = _without_nulls(value) if name in OBJECTS else value
        elif name not in HARMLESS or value not in HARMLESS[name]:
            raise _unsupported(name[:64], value)
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_message(number, message) for number, message in enumerate(kept["messages"])]
    return kept


def _without_nulls(value: object) -> object:
    return {name: inner for name, inner in value.items() if inner is not None} if isinstance(value, dict) else value


def _unsupported(name: str, value: object) -> UnsupportedParameter:
    if name in SEVERAL and isinstance(value, int) and value > 1:
        return UnsupportedParameter(f"{name} is not supported above 1: send several requests", param=name)
    return UnsupportedParameter(f"{name} is not supported", param=name)


def _message(number: int, message: object) -> object:
    """Clients send back the assistant's messages as they came, with `"refusal": null` and the like."""
    if not isinstance(message, dict):
        return message
    if message.get("role") in FOREIGN_ROLES:
        raise UnsupportedParameter(
            f"messages of role {message['role']} are not supported: there are no tools",
            param=f"messages[{number}].role",
        )
    kept = _meant(message, ("content",))
    for name in kept:  # before the content is looked at: beside tool calls it is null
        if name not in Message.__struct_fields__:
            raise _unsupported(f"messages[{number}].{name[:64]}", None)
    if "content" in kept:
        kept["content"] = _content(f"messages[{number}].content", kept["content"])
    return kept


def _meant(fields: dict[str, Any], required: Collection[str]) -> dict[str, Any]:
    """Without what asks for nothing; a required field stays whatever it holds, so that the refusal names it."""
    return {
        name: value
        for name, value in fields.items()
        if name in required or (value not in (None, []) and name not in IGNORED_IN_MESSAGES)
    }


def _content(at: str, content: object) -> object:
    if content is None:
        raise InvalidRequest(f"{at} is null: a message needs a text, which may be empty", param=at)
    if not isinstance(content, list):
        return content
    return [_part(f"{at}[{place}]", part) for place, part in enumerate(content)]


def _part(at: str, part: object) -> object:
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    if isinstance(kind, str) and kind != "text":
        raise UnsupportedParameter(f"content of type {kind[:64]!r} is not supported: text alone is", param=f"{at}.type")
    return _meant(part, Part.__struct_fields__)


def invalid(message: str) -> InvalidRequest:
    """msgspec's words, with the field taken out of its path: "… - at `$.messages[0].role`"."""
    words, _, place = message.partition(" - at ")
    param = place.rpartition("`$")[2].strip("`").lstrip(".") or None
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", words, re.DOTALL)
    if unknown:
        name = ".".join(filter(None, (param, unknown[1])))[:128]
        return UnsupportedParameter(f"{name} is not supported", param=name)
    if words.startswith("Invalid enum value") and (allowed := ALLOWED.get((param or "").rpartition(".")[2])):
        words = f"{words}; there are {', '.join(allowed)}"
    return InvalidRequest(f"{param}: {words}" if param else words, param=param)
