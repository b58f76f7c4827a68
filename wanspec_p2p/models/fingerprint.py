"""Name a tokenizer by what decides token ids, so that a drafter and a target can tell that they speak of the same ids.

Read from tokenizer.json without transformers or tokenizers, because a registration must not wait for an import.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from wanspec_p2p.errors import ModelError

__all__ = ["TokenizerFacts", "tokenizer_facts"]


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    fingerprint: str
    """SHA-256 over vocabulary, merges, added tokens, normaliser and pre-tokeniser in canonical JSON."""
    vocab_size: int
    """One more than the highest id the tokenizer can produce."""


def tokenizer_facts(directory: Path) -> TokenizerFacts:
    """Fingerprint and vocabulary of the tokenizer in a model directory.

    Raises:
        ModelError: there is no tokenizer.json, or it is damaged.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{directory} has no tokenizer.json: only tokenizers of that form can be told apart")
    try:
        content = orjson.loads(path.read_bytes())
        model, added = content["model"], content.get("added_tokens") or []
        deciding = {
            "model": {**_plain(model), "vocab": model["vocab"], "merges": _merges(model.get("merges"))},
            "added_tokens": sorted((_plain(token) for token in added), key=lambda token: token.get("id", 0)),
            "normalizer": content.get("normalizer"),
            "pre_tokenizer": content.get("pre_tokenizer"),
        }
        ids = [*_ids(model["vocab"]), *(token["id"] for token in added)]
        if odd := [token for token in ids if type(token) is not int or token < 0]:
            raise ValueError(f"{odd[0]!r} is no token id")
        canonical = orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return TokenizerFacts(hashlib.sha256(canonical).hexdigest(), max(ids, default=-1) + 1)


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what is off or absent: library versions differ in which defaults they write out."""
    return {name: value for name, value in fields.items() if value not in (None, False, "")}


def _merges(merges: list[str] | list[list[str]] | None) -> list[list[str]]:
    """Older files write a merge as "a b", newer ones as ["a", "b"]."""
    return [merge.split(" ", 1) if isinstance(merge, str) else list(merge) for merge in merges or []]


def _ids(vocab: dict[str, int] | list[Any]) -> list[int]:
    """BPE maps pieces to ids; Unigram lists pieces in id order."""
    return list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
