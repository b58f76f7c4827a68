from __future__ import annotations

import json
from pathlib import Path

import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.prompts import Prompt, load_prompts


def prompts_file(folder: Path, *lines: str) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_prompts_of_both_forms(tmp_path: Path) -> None:
    file = prompts_file(
        tmp_path,
        '{"prompt": "one\u2028line", "category": "c"}',
        "",
        '{"turns": ["two", "three"], "id": 7}',
        '{"prompt": "four", "category": null}',
    )
    assert load_prompts(file, "--prompts") == [
        Prompt("1", "c", "one\u2028line"),
        Prompt("7", "other", "two"),
        Prompt("4", "other", "four"),
    ]


def test_a_mark_that_says_utf_8_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert load_prompts(prompts_file(tmp_path, '\ufeff{"prompt": "one"}'), "--prompts") == [Prompt("1", "other", "one")]


def test_so_many_prompts_spread_over_the_file(tmp_path: Path) -> None:
    file = prompts_file(tmp_path, *(json.dumps({"prompt": str(i)}) for i in range(10)))
    assert [prompt.text for prompt in load_prompts(file, "--unseen", 3)] == ["0", "3", "6"]
    assert len(load_prompts(file, "--unseen", 11)) == 10


@pytest.mark.parametrize(
    "line", ["nonsense", "3", '"prompt"', "[]", "{}", '{"prompt": 3}', '{"prompt": ""}', '{"turns": []}',
             '{"turns": "ab", "prompt": null}', '{"prompt": "\\ud800"}', pytest.param("[" * 200_000, id="deep")]
)  # fmt: skip
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str) -> None:
    file = prompts_file(tmp_path, '{"prompt": "good"}', "", line)
    with pytest.raises(ConfigError, match=r"--unseen .*prompts\.jsonl, line 3 has no `prompt`"):
        load_prompts(file, "--unseen")


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--prompts .*prompts\.jsonl holds no prompt"):
        load_prompts(prompts_file(tmp_path, "", " "), "--prompts")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_prompts(tmp_path / "nowhere", "--prompts")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_prompts(tmp_path, "--prompts")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read: it is no UTF-8 text"):
        load_prompts(tmp_path / "binary", "--prompts")
