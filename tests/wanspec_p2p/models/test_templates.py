from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import CHAT_TEMPLATE, write_tokenizer
from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.templates import TODAY, template_digest, with_still_clock
from wanspec_p2p.models.torch_tokenizer import TorchTokenizer


def digest(directory: Path, config: dict[str, Any], jinja: str | None = None) -> str | None:
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").unlink(missing_ok=True)
    if jinja is not None:
        (directory / "chat_template.jinja").write_text(jinja)
    return template_digest(directory)


def test_a_template_has_one_digest_wherever_it_stands(tmp_path: Path) -> None:
    found = digest(tmp_path, {"chat_template": "A"})
    assert found is not None and len(found) == 64
    several = [{"name": "tools", "template": "B"}, {"name": "default", "template": "A"}]
    assert digest(tmp_path, {"chat_template": several}) == found
    assert digest(tmp_path, {"chat_template": "B"}, "A") == found
    assert digest(tmp_path, {"chat_template": "B"}) != found
    assert digest(tmp_path, {"chat_template": "A", "model_max_length": 5, "add_bos_token": True}) == found


def test_special_tokens_that_a_template_may_write_belong_to_it(tmp_path: Path) -> None:
    found = digest(tmp_path, {"chat_template": "A", "bos_token": "<s>", "unk_token": None})
    assert digest(tmp_path, {"chat_template": "A", "bos_token": {"content": "<s>", "lstrip": False}}) == found
    assert digest(tmp_path, {"chat_template": "A", "bos_token": "<t>"}) != found


def test_without_a_template_there_is_no_digest(tmp_path: Path) -> None:
    assert template_digest(tmp_path) is None
    assert digest(tmp_path, {"bos_token": "<s>"}) is None
    assert digest(tmp_path, {"chat_template": [{"name": "tools", "template": "B"}]}) is None
    assert digest(tmp_path, {"chat_template": ["A"]}) is None
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is not JSON"):
        template_digest(tmp_path)


def rendered(directory: Path, template: str) -> str:
    write_tokenizer(directory)
    (directory / "chat_template.jinja").write_text(template)
    return TorchTokenizer(directory).render_chat([("user", "hi")])


@pytest.mark.parametrize(
    "form", ["%d %b %Y", "%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%A, %-d %B", "%H:%M:%S", "%c", "%Z%z%j"]
)
def test_a_template_is_rendered_at_one_moment(tmp_path: Path, form: str) -> None:
    template = "{% if strftime_now is defined %}{{ strftime_now('" + form + "') }}{% endif %}"
    assert rendered(tmp_path, template) == TODAY.strftime(form)


def test_a_clock_that_stands_still_changes_nothing_else(tmp_path: Path) -> None:
    start = "  {% if true %}\n\n  {{ messages[0].content }}{% endif %}\n"
    clock = "{% macro day() %}{{ strftime_now('%d')[:2] }}{% endmacro %}{{ day() }}"
    assert rendered(tmp_path, start) == "\n  hi"
    assert rendered(tmp_path, start + clock) == "\n  hi26"
    assert with_still_clock(CHAT_TEMPLATE) == CHAT_TEMPLATE
