"""Chat templates: which one a model directory has, by digest, and how one is kept from looking at the clock."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from wanspec_p2p.models.directories import read_tokenizer_config

__all__ = ["TODAY", "template_digest", "with_still_clock"]

TODAY = datetime(2024, 7, 26, 12)
"""When every chat template is rendered: the date that Llama's own take where there is no clock."""
DIRECTIVES = (*"aAwdbBmyYHIMpSfjUWGuVcxXZz", "-d", "-m", "-H", "-I", "-M", "-S", "-j")


def template_digest(directory: Path) -> str | None:
    """SHA-256 of the chat template and of the special tokens it may write by name; None where there is no template.

    Raises:
        ModelError: a file that says so is damaged.
    """
    config = read_tokenizer_config(directory)
    file = directory / "chat_template.jinja"
    template = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else _named(config)
    if not template:
        return None
    texts = {name: _text(value) for name, value in config.items() if name.endswith("_token")}
    names = {name: text for name, text in texts.items() if isinstance(text, str)}  # not `add_bos_token`
    return hashlib.sha256(json.dumps([template, names], sort_keys=True).encode()).hexdigest()


def _named(config: dict[str, Any]) -> object:
    """The template of tokenizer_config.json: of several with names, the one that is rendered without naming any."""
    template = config.get("chat_template")
    if not isinstance(template, list):
        return template
    named = (entry for entry in template if isinstance(entry, dict))
    return next((entry.get("template") for entry in named if entry.get("name") == "default"), None)


def _text(token: object) -> object:
    """Library versions write a special token as text or with its settings."""
    return token.get("content") if isinstance(token, dict) else token


def with_still_clock(template: str) -> str:
    """`template` with a `strftime_now` that always answers for TODAY; as it is where it does not ask.

    The same request then has the same prompt on any day and in any time zone.
    """
    if "strftime_now" not in template:
        return template
    text = "format"
    for directive in DIRECTIVES:
        text += f" | replace({'%' + directive!r}, {TODAY.strftime('%' + directive)!r})"
    # The line break is eaten with the block's end, and the template starts at a line's start as it did.
    return "{% macro strftime_now(format) %}{{ " + text + " }}{% endmacro %}\n" + template
