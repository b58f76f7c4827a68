from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.fingerprint import TokenizerFacts, tokenizer_facts

BASE: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "added_tokens": [{"id": 7, "content": "<|end|>", "special": True, "lstrip": False}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "unk_token": None},
}


def facts(directory: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None) -> TokenizerFacts:
    content = json.loads(json.dumps(BASE))
    change(content)
    (directory / "tokenizer.json").write_text(json.dumps(content, indent=1))
    return tokenizer_facts(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(truncation={"max_length": 5}, padding=None, version="2.0"),
        lambda c: c["model"].update(merges=["a b"]),
        lambda c: c["model"].pop("unk_token"),
        lambda c: c["model"].update(fuse_unk=False),
        lambda c: c.update(model=dict(reversed(c["model"].items()))),
    ],
    ids=["length", "merges as strings", "absent default", "written default", "order"],
)
def test_what_does_not_decide_ids_does_not_count(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    assert facts(tmp_path, change) == facts(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["model"]["vocab"].update(c=3),
        lambda c: c["model"].update(merges=[]),
        lambda c: c["model"].update(ignore_merges=True),
        lambda c: c["added_tokens"][0].update(content="<|stop|>"),
        lambda c: c["added_tokens"][0].update(lstrip=True),
        lambda c: c.update(normalizer={"type": "NFC"}),
        lambda c: c["pre_tokenizer"].update(add_prefix_space=True),
    ],
    ids=["vocabulary", "merges", "option", "added token", "stripping", "normaliser", "pre-tokeniser"],
)
def test_what_decides_ids_counts(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    assert facts(tmp_path, change).fingerprint != facts(tmp_path).fingerprint


def test_the_vocabulary_reaches_to_the_highest_id(tmp_path: Path) -> None:
    assert facts(tmp_path).vocab_size == 8
    unigram = {"type": "Unigram", "vocab": [["a", -1.0], ["b", -2.0]]}
    assert facts(tmp_path, lambda c: c.update(model=unigram, added_tokens=[])).vocab_size == 2


@pytest.mark.parametrize("odd", ["1", -1, 1.5, None])
def test_an_id_that_is_none_is_one_line(tmp_path: Path, odd: object) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged: .* is no token id"):
        facts(tmp_path, lambda c: c["model"]["vocab"].update(odd=odd))


def test_missing_and_damaged_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        tokenizer_facts(tmp_path)
    for content in ("", "[]", "{}", '{"model": 3}', '{"model": {"vocab": 3}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ModelError, match="damaged"):
            tokenizer_facts(tmp_path)
