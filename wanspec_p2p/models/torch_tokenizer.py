"""Text to ids and back with the model's own tokenizer, where a user's text can never become a special token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanspec_p2p.errors import InvalidRequest, ModelError
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.templates import with_still_clock
from wanspec_p2p.models.torch_quiet import quiet_transformers
from wanspec_p2p.types import TokenId

__all__ = ["TorchTokenizer"]

PRIVATE_USE = range(0xE000, 0xF8FF)


class TorchTokenizer:
    """A `Tokenizer` over transformers' AutoTokenizer.

    Raises:
        ModelError: the directory has no tokenizer that transformers reads without running foreign code.
    """

    def __init__(self, directory: Path) -> None:
        quiet_transformers()
        from transformers import AutoTokenizer

        self._facts = tokenizer_facts(directory)
        try:
            self._inner: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except Exception as error:  # tokenizers raises nothing more exact, and a damaged file can raise anything
            raise ModelError(f"the tokenizer in {directory} cannot be read: {_first_line(error)}") from error
        added: dict[int, Any] = self._inner.added_tokens_decoder
        self._special_ids = {str(token): number for number, token in added.items() if token.special}
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @property
    def fingerprint(self) -> str:
        return self._facts.fingerprint

    def encode(self, text: str) -> list[TokenId]:
        return self._ids(text, specials_are_text=True)

    def _ids(self, text: str, *, specials_are_text: bool) -> list[TokenId]:
        encoded = self._inner(
            text, add_special_tokens=False, split_special_tokens=specials_are_text, return_attention_mask=False
        )
        return [int(token) for token in encoded["input_ids"]]

    def encode_rendered(self, text: str) -> list[TokenId]:
        """Ids of what a chat template made: special tokens in it are special."""
        return self._ids(text, specials_are_text=False)

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[TokenId]:
        if not any(self._special.search(content) for _, content in messages):
            return self.encode_rendered(self.render_chat(messages))
        return self._encode_guarded(messages)

    def render_chat(self, messages: Sequence[tuple[str, str]]) -> str:
        """(role, content) pairs through the chat template, generation prompt included.

        Raises:
            InvalidRequest: as `encode_chat`.
        """
        from jinja2 import TemplateError

        if not self._inner.chat_template:
            raise InvalidRequest("this model has no chat template: send a plain prompt to /v1/completions")
        turns = [{"role": role, "content": content} for role, content in messages]
        try:
            template = with_still_clock(self._inner.get_chat_template())
            return str(
                self._inner.apply_chat_template(
                    turns, chat_template=template, add_generation_prompt=True, tokenize=False
                )
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {_first_line(error)}") from error

    def _encode_guarded(self, messages: Sequence[tuple[str, str]]) -> list[TokenId]:
        """Special tokens spelt out in a message are broken by a character nobody uses while the template runs; what is
        still whole afterwards is the template's own.

        Raises:
            InvalidRequest: as `encode_chat`, or there is no such character.
        """
        text = "".join(content for _, content in messages)
        guard = next((chr(code) for code in PRIVATE_USE if chr(code) not in text), None)
        if guard is None:
            raise InvalidRequest("the messages spell out special tokens and use all of Unicode's private use area")
        guarded = [
            (role, self._special.sub(lambda match: match[0][0] + guard + match[0][1:], content))
            for role, content in messages
        ]
        ids: list[TokenId] = []
        rendered = self.render_chat(guarded)
        at = 0
        for match in self._special.finditer(rendered):
            ids += self._ids(rendered[at : match.start()].replace(guard, ""), specials_are_text=True)
            ids.append(self._special_ids[match[0]])
            at = match.end()
        return ids + self._ids(rendered[at:].replace(guard, ""), specials_are_text=True)

    def decode(self, ids: Sequence[TokenId]) -> str:
        return str(self._inner.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def piece(self, token: TokenId) -> str:
        return str(self._inner.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
