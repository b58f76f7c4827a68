"""Files of prompts, as benchmarks, recordings and the making of drafters read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from wanspec_p2p.errors import ConfigError

__all__ = ["Prompt", "load_prompts"]


@dataclass(frozen=True, slots=True)
class Prompt:
    id: str  # as the file says; else the number of its line
    category: str
    text: str


def load_prompts(file: Path, flag: str, count: int | None = None) -> list[Prompt]:
    """JSON lines with `prompt`, or `turns` of which the first is taken (the form of Spec-Bench).

    Args:
        flag: that named `file`, for what is said to the user.
        count: so many of them, spread evenly over the file, so that every category has its share.

    Raises:
        ConfigError: the file cannot be read, is empty, or a line is neither.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"{flag} {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{flag} {file} cannot be read: it is no UTF-8 text") from error
    prompts = [_prompt(line, number, f"{flag} {file}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise ConfigError(f"{flag} {file} holds no prompt")
    if count is None or count >= len(prompts):
        return prompts
    return [prompts[i * len(prompts) // count] for i in range(count)]


def _prompt(line: str, number: int, where: str) -> Prompt:
    try:
        entry = json.loads(line)
        text = entry["prompt"] if "prompt" in entry else entry["turns"][0]
        prompt = Prompt(str(entry.get("id", number)), str(entry.get("category") or "other"), text)
        if not isinstance(text, str) or not text:
            raise ValueError
        (prompt.id + prompt.category + text).encode()  # JSON can spell halves of characters, which are no text
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise ConfigError(f"{where}, line {number} has no `prompt` and no `turns` with text in it") from None
    return prompt
