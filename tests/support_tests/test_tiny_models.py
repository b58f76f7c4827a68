from __future__ import annotations

from pathlib import Path

from tests.support.tiny_models import SPECIAL_TOKENS, write_tiny_model
from wanspec_p2p.models.directories import check_directory, read_config
from wanspec_p2p.models.fingerprint import tokenizer_facts


def test_a_tiny_model_is_a_complete_directory_with_padded_vocabulary(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path)
    check_directory(directory)
    assert tokenizer_facts(directory).vocab_size == 256 + len(SPECIAL_TOKENS)
    assert read_config(directory)["vocab_size"] == 272
