from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_models import SPECIAL_TOKENS, write_tiny_model
from wanspec_p2p.models.directories import check_directory, read_config
from wanspec_p2p.models.fingerprint import tokenizer_facts


def test_a_tiny_model_is_a_complete_directory_with_padded_vocabulary(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path)
    check_directory(directory)
    assert tokenizer_facts(directory).vocab_size == 256 + len(SPECIAL_TOKENS)
    assert read_config(directory)["vocab_size"] == 272


@pytest.mark.parametrize("kind", ["Mistral", "Qwen2", "Qwen3"])
def test_other_architectures_have_their_own_name_and_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    directory = write_tiny_model(tmp_path, kind=kind)
    assert read_config(directory)["model_type"] == kind.lower()
    assert tokenizer_facts(directory).vocab_size == 256 + len(SPECIAL_TOKENS)
