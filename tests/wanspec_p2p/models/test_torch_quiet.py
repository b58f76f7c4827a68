from __future__ import annotations

from pathlib import Path

import pytest

from wanspec_p2p.models.torch_quiet import quiet_transformers


def test_loading_writes_nothing_to_the_screen(tiny_directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiet_transformers()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny_directory)
    AutoTokenizer.from_pretrained(tiny_directory)
    assert capfd.readouterr() == ("", "")
