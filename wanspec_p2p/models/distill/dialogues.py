"""What a target is made to talk about, so that its drafter sees every kind of text it will have to foresee.

A target writes both sides: given the chat template up to where a user's words would stand, a chat model writes what a
user might ask (Magpie, Xu et al., arXiv 2406.08464), and then answers it. Left alone it asks a narrow set of
questions; an opening ("Translate to English: ") makes it continue with a request of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import msgspec
import numpy as np

from wanspec_p2p.errors import ConfigError, InvalidRequest, ModelError
from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.types import TokenId

__all__ = ["ANSWER_TEMPERATURES", "Dialogues", "Frame", "Script", "Turn", "chat_frame"]

ANSWER_TEMPERATURES = (0.0, 0.0, 0.5, 0.8, 1.0)
"""Each as likely as the others; greedy answers twice, because greedy is what most submitters ask for."""
SECOND_TURN_SHARE = 0.2
BROUGHT_SHARE = 0.5
"""Of the dialogues, where somebody brought prompts of their own."""
SCRIPT_DOMAIN = 1
_MARKS = ("WANSPEC0USER0FIRST", "WANSPEC0ANSWER0FIRST", "WANSPEC0USER0SECOND")


@dataclass(frozen=True, slots=True)
class Frame:
    """A chat template's own tokens, cut where a user's or the model's words stand."""

    before: tuple[TokenId, ...]  # up to the user's first word
    middle: tuple[TokenId, ...]  # from behind the user's last word to the answer's first
    between: tuple[TokenId, ...]  # from behind the answer's last word to the user's next turn


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's turn begins with these tokens; `open` ones the target writes on."""

    tokens: tuple[TokenId, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class Script:
    kind: str
    temperature: float  # of the answers
    turns: tuple[Turn, ...]


class ChatTokenizer(Tokenizer, Protocol):
    """What `TorchTokenizer` has beyond a `Tokenizer`."""

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str: ...

    def encode_rendered(self, text: str) -> list[TokenId]: ...


def chat_frame(tokenizer: ChatTokenizer, name: str) -> Frame:
    """The frame of a model's chat template.

    Raises:
        ModelError: there is none, it does not leave a message as it is, or does not show where words begin and end.
    """
    first, answer, second = _MARKS
    try:
        rendered = tokenizer.render_chat([("user", first), ("assistant", answer), ("user", second)])
    except InvalidRequest as error:
        raise ModelError(
            f"{name} cannot be distilled: its chat template is missing, or refuses a dialogue of user, assistant, user"
        ) from error
    parts: list[str] = []
    rest = rendered
    for mark in _MARKS:
        before, found, rest = rest.partition(mark)
        if not found:
            raise ModelError(f"{name} cannot be distilled: its chat template changes the messages it is given")
        parts.append(before)
    before, _, between = parts
    frame = Frame(*(tuple(tokenizer.encode_rendered(text)) for text in (before, rest, between)))
    if any(mark in rest for mark in _MARKS) or not (frame.before and frame.middle and frame.between):
        raise ModelError(f"{name} cannot be distilled: its chat template does not keep messages apart")
    return frame


class Dialogues:
    """The script of dialogue `index` is a function of the seed, the index and the prompts brought, and of nothing else.

    Args:
        prompts: brought by somebody, for the target to answer.
        longest: of these, the ones of more tokens are left out.

    Raises:
        ConfigError: prompts were brought and all are longer.
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int, prompts: Sequence[str] = (), longest: int = 384) -> None:
        self._seed = seed
        self._openings = [(kind, tuple(tokenizer.encode(text))) for kind, texts in OPENINGS.items() for text in texts]
        self._weights = np.array([SHARES[kind] / len(OPENINGS[kind]) for kind in OPENINGS for _ in OPENINGS[kind]])
        self._weights /= self._weights.sum()
        brought = [tuple(tokenizer.encode(text)) for text in prompts]
        self._brought = [tokens for tokens in brought if len(tokens) <= longest]
        if prompts and not self._brought:
            raise ConfigError(f"--prompts: every prompt is longer than {longest} tokens: bring shorter ones")

    @property
    def highest(self) -> TokenId:
        """The highest id in any script."""
        written = [*self._brought, *(opening for _, opening in self._openings)]
        return max(token for tokens in written for token in tokens)

    def script(self, index: int) -> Script:
        key = (self._seed << 64) | SCRIPT_DOMAIN
        random = np.random.Generator(np.random.Philox(key=key % 2**128, counter=[0, 0, 0, index]))
        temperature = float(random.choice(ANSWER_TEMPERATURES))
        again = random.random() < SECOND_TURN_SHARE
        if self._brought and random.random() < BROUGHT_SHARE:
            kind, first = "brought", Turn(self._brought[int(random.integers(len(self._brought)))], open=False)
        else:
            kind, opening = self._openings[int(random.choice(len(self._openings), p=self._weights))]
            first = Turn(opening, open=True)
        return Script(kind, temperature, (first, Turn((), open=True)) if again else (first,))


class _Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    share: float
    openings: list[str]


_KINDS = msgspec.json.decode(
    resources.files("wanspec_p2p.models.distill").joinpath("openings.json").read_bytes(), type=dict[str, _Kind]
)
OPENINGS = {name: kind.openings for name, kind in _KINDS.items()}
SHARES = {name: kind.share for name, kind in _KINDS.items()}
