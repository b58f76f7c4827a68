from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.scripted_models import ByteTokenizer
from tests.support.tiny_models import write_tokenizer
from wanspec_p2p.errors import ConfigError, InvalidRequest, ModelError
from wanspec_p2p.models.distill.dialogues import (
    ANSWER_TEMPERATURES,
    BROUGHT_SHARE,
    OPENINGS,
    SECOND_TURN_SHARE,
    SHARES,
    Dialogues,
    Script,
    Turn,
    chat_frame,
)
from wanspec_p2p.models.torch_tokenizer import TorchTokenizer

MANY = 4000
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|turn|>system\n"
    "You are a helpful AI assistant.<|end|>\n{% endif %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
WITH_BOS = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def dialogues(seed: int = 0, prompts: Sequence[str] = (), longest: int = 384) -> Dialogues:
    return Dialogues(ByteTokenizer(), seed=seed, prompts=prompts, longest=longest)


def first_many(made: Dialogues) -> list[Script]:
    return [made.script(index) for index in range(MANY)]


def tokenizer(folder: Path, template: str | None) -> TorchTokenizer:
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    if template is None:
        del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return TorchTokenizer(folder)


def test_a_script_is_a_function_of_seed_and_index() -> None:
    one, other = dialogues(seed=5), dialogues(seed=5)
    backwards = [other.script(index) for index in reversed(range(50))]
    assert [one.script(index) for index in range(50)] == backwards[::-1]
    assert [dialogues(seed=6).script(index) for index in range(50)] != backwards[::-1]


def test_kinds_come_in_about_the_shares_that_are_stated() -> None:
    kinds = Counter(script.kind for script in first_many(dialogues()))
    assert set(kinds) == set(SHARES) == set(OPENINGS)
    assert sum(SHARES.values()) == pytest.approx(1)
    # Four standard deviations of a share of 4000.
    assert {kind: kinds[kind] / MANY for kind in SHARES} == {
        kind: pytest.approx(share, abs=4 * (share * (1 - share) / MANY) ** 0.5) for kind, share in SHARES.items()
    }


def test_temperatures_and_second_turns_come_in_their_shares() -> None:
    made = first_many(dialogues(seed=1))
    temperatures = Counter(script.temperature for script in made)
    assert {t: n / MANY for t, n in temperatures.items()} == {
        t: pytest.approx(ANSWER_TEMPERATURES.count(t) / len(ANSWER_TEMPERATURES), abs=0.03) for t in ANSWER_TEMPERATURES
    }
    assert sum(len(script.turns) == 2 for script in made) / MANY == pytest.approx(SECOND_TURN_SHARE, abs=0.03)
    assert all(script.turns[1:] in ((), (Turn((), open=True),)) for script in made)


def test_an_opening_is_one_of_its_kind_and_left_open() -> None:
    for script in first_many(dialogues())[:200]:
        assert bytes(script.turns[0].tokens).decode() in OPENINGS[script.kind]
        assert script.turns[0].open


def test_prompts_that_are_brought_are_asked_as_they_are() -> None:
    made = first_many(dialogues(prompts=["Why?", "How long?", "x" * 400]))
    brought = [script for script in made if script.kind == "brought"]
    assert len(brought) / MANY == pytest.approx(BROUGHT_SHARE, abs=0.035)
    assert {bytes(script.turns[0].tokens).decode() for script in brought} == {"Why?", "How long?"}
    assert not any(script.turns[0].open for script in brought)


def test_prompts_that_are_all_too_long_are_refused() -> None:
    with pytest.raises(ConfigError, match="--prompts: every prompt is longer than 3 tokens"):
        dialogues(prompts=["long"], longest=3)


def test_the_highest_id() -> None:
    assert dialogues().highest == max(max(text.encode()) for texts in OPENINGS.values() for text in texts if text)
    assert dialogues(prompts=["\N{DOG FACE}"]).highest == 0xF0


def test_the_frame_of_a_template_like_smollm2s(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, CHATML)
    frame = chat_frame(made, "m")
    turn, end = 257, 256
    system = [turn, *made.encode("system\nYou are a helpful AI assistant."), end, *made.encode("\n")]
    assert list(frame.before) == [*system, turn, *made.encode("user\n")]
    assert list(frame.middle) == [end, *made.encode("\n"), turn, *made.encode("assistant\n")]
    assert list(frame.between) == [end, *made.encode("\n"), turn, *made.encode("user\n")]
    words, answer = made.encode("hi"), made.encode("yes")
    whole = [*frame.before, *words, *frame.middle, *answer, *frame.between, *words, *frame.middle]
    assert whole == made.encode_chat([("user", "hi"), ("assistant", "yes"), ("user", "hi")])


def test_the_frame_of_a_template_that_begins_with_a_token_of_its_own(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, WITH_BOS)
    frame = chat_frame(made, "m")
    assert list(frame.before) == [257, *made.encode("<user>")]
    assert list(frame.middle) == [256, *made.encode("<assistant>")]
    assert list(frame.between) == [256, *made.encode("<user>")]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "chat template is missing, or refuses"),
        ("{{ raise_exception('never') }}", "chat template is missing, or refuses"),
        ("{% for m in messages %}[{{ m['content'] | lower }}]{% endfor %}.", "changes the messages it is given"),
        ("{% for m in messages %}[{{ m['content'] }}{{ m['content'] }}]{% endfor %}.", "keep messages apart"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "does not keep messages apart"),
        ("[{% for m in messages %}{{ m['content'] }}|{% endfor %}{{ messages[0]['content'] }}", "keep messages apart"),
    ],
)
def test_a_template_that_will_not_do_is_one_line(tmp_path: Path, template: str | None, said: str) -> None:
    with pytest.raises(ModelError, match=f"^m cannot be distilled: its .*{said}"):
        chat_frame(tokenizer(tmp_path, template), "m")


def test_what_the_template_says_stays_behind_the_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        chat_frame(tokenizer(tmp_path, None), "m")
    assert isinstance(caught.value.__cause__, InvalidRequest) and "\n" not in str(caught.value)
