from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.scripted_models import ByteTokenizer
from wanspec_p2p.target.text import Detokenizer, StopScanner, TextStream

TOKENIZER = ByteTokenizer()
MARK = 300  # an id without text, as end-of-sequence is


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string that ends in it; the longest where several end together."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


def show(stream: TextStream, batches: Sequence[Sequence[int]]) -> str:
    return "".join(stream.add(batch) for batch in batches) + stream.finish()


def test_a_character_waits_for_its_last_byte() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    shown = [detokenizer.add([byte]) for byte in "a✓😀b".encode()]
    assert shown == ["a", "", "", "✓", "", "", "", "😀", "b"]


def test_a_character_split_over_rounds_is_shown_whole() -> None:
    euro = "€".encode()
    detokenizer = Detokenizer(TOKENIZER)
    assert [detokenizer.add(b"x" + euro[:2]), detokenizer.add(euro[2:] + b"y")] == ["", "x€y"]


def test_a_replacement_character_of_the_models_own_is_shown_once_it_is_known_to_be_one() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.add("\ufffd".encode()) == ""
    assert detokenizer.add(b"!") == "\ufffd!"
    assert detokenizer.add("\ufffd".encode()) + detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_a_broken_character_is_shown_at_the_end() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.add("✓".encode()[:2]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_bytes_that_never_become_a_character_do_not_pile_up() -> None:
    decoded: list[int] = []

    class Counting(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            decoded.append(len(ids))
            return super().decode(ids)

    detokenizer = Detokenizer(Counting())
    shown = "".join(detokenizer.add([0x80]) for _ in range(200))
    assert len(shown) > 180
    assert shown + detokenizer.finish() == "\ufffd" * 200
    assert max(decoded) <= 32


def test_ids_without_text_do_not_pile_up() -> None:
    decoded: list[int] = []

    class Counting(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            decoded.append(len(ids))
            return super().decode(ids)

    detokenizer = Detokenizer(Counting(), b"prompt")
    assert "".join(detokenizer.add([MARK]) for _ in range(200)) == ""
    assert detokenizer.add(b"x") == "x"
    assert max(decoded) <= 32


def test_what_depends_on_the_token_before_is_decoded_with_it() -> None:
    """A tokenizer that drops the space at the beginning of a text, as SentencePiece ones do."""

    class Stripping(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            return super().decode(ids).removeprefix(" ")

    stream = TextStream(Stripping(), (), b"prompt")
    assert show(stream, [b" a", b" ", b"b", b" c"]) == " a b c"


def test_bytes_that_are_decoded_run_by_run() -> None:
    """A tokenizer that calls a whole run of bytes broken while its last character is, as SentencePiece ones do."""

    class RunByRun(ByteTokenizer):
        def decode(self, ids: Sequence[int]) -> str:
            text = super().decode(ids)
            return "\ufffd" * len(ids) if "\ufffd" in text else text

    assert show(TextStream(RunByRun(), ()), [[byte] for byte in "✓✓😀é".encode()]) == "✓✓😀é"


def test_a_character_the_prompt_began_belongs_to_the_prompt() -> None:
    mark = "✓".encode()
    detokenizer = Detokenizer(TOKENIZER, mark[:2])
    assert [detokenizer.add(mark[2:]), detokenizer.add(b"a"), detokenizer.add(b"b")] == ["", "a", "b"]


def test_a_stop_string_across_tokens_and_rounds_is_cut_and_never_shown() -> None:
    stream = TextStream(TOKENIZER, ["END"])
    assert [stream.add(b"one E"), stream.add(b"N"), stream.add(b"x E"), stream.add(b"N")] == ["one ", "", "ENx ", ""]
    assert not stream.stopped
    assert stream.add(b"D and more") == ""
    assert stream.stopped
    assert stream.add(b"more") == stream.finish() == ""


def test_a_stop_string_at_the_very_beginning_leaves_nothing() -> None:
    stream = TextStream(TOKENIZER, ["\n"])
    assert stream.add(b"\nrest") == ""
    assert stream.stopped


def test_a_half_met_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(TOKENIZER, ["END"])
    assert stream.add(b"the EN") == "the "
    assert stream.finish() == "EN"
    assert not stream.stopped


def test_a_stop_string_that_the_last_character_completes() -> None:
    stream = TextStream(TOKENIZER, ["x\ufffd"])
    assert stream.add(b"ax\xe2") == ""
    assert stream.finish() == "a"
    assert stream.stopped


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("xabcx", ["abc", "b"], "xa"),  # "b" ends first
        ("xabx", ["b", "ab"], "x"),  # both end together: the longer one
        ("aab", ["ab"], "a"),
        ("ababc", ["abc"], "ab"),
        ("abab", ["ba", "abab"], "a"),
        ("fine", ["nothing", "of"], "fine"),
    ],
)
def test_overlapping_stop_strings(text: str, stops: list[str], shown: str) -> None:
    assert cut(text, stops) == shown
    scanner = StopScanner(stops)
    assert scanner.add(text) + scanner.finish() == shown
    scanner = StopScanner(stops)
    assert "".join(map(scanner.add, text)) + scanner.finish() == shown


def test_a_long_stop_string_that_is_nearly_met_costs_a_few_steps_a_character() -> None:
    looks = 0

    class Counting(str):
        def __getitem__(self, at: SupportsIndex | slice) -> str:
            nonlocal looks
            looks += 1
            return super().__getitem__(at)

    scanner = StopScanner([Counting("a" * 1023 + "!")])
    text = "a" * 4000
    assert "".join(map(scanner.add, text)) + scanner.finish() == text
    assert looks <= 4 * (1024 + len(text))


few = st.sampled_from(["a", "b", "é", "✓", "😀", "\ufffd"])


@st.composite
def batches(draw: st.DrawFn, ids: st.SearchStrategy[list[int]]) -> list[list[int]]:
    tokens = draw(ids)
    cuts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    return [tokens[a:b] for a, b in zip([0, *cuts], [*cuts, len(tokens)], strict=True)]


@given(
    batches(st.text(few, max_size=30).map(lambda text: list(text.encode()))),
    st.lists(st.text(few, min_size=1, max_size=4), max_size=3),
    st.binary(max_size=12),
)
def test_the_text_shown_is_that_of_all_ids_cut_at_the_first_stop_string(
    batches: list[list[int]], stops: list[str], prompt: bytes
) -> None:
    prompt = prompt.decode(errors="ignore").encode()
    whole = TOKENIZER.decode([token for batch in batches for token in batch])
    assert show(TextStream(TOKENIZER, stops, prompt), batches) == cut(whole, stops)


@given(batches(st.lists(st.one_of(st.integers(0x7E, 0xFF), st.just(0x61)), max_size=60)))
def test_even_bytes_that_are_no_text_are_shown_as_they_decode(batches: list[list[int]]) -> None:
    whole = TOKENIZER.decode([token for batch in batches for token in batch])
    assert show(TextStream(TOKENIZER, ()), batches) == whole


@given(st.text(few, max_size=30), st.lists(st.text(few, min_size=1, max_size=4), max_size=3), st.integers(min_value=0))
def test_an_answer_resumed_elsewhere_shows_what_was_not_shown(text: str, stops: list[str], at: int) -> None:
    ids = text.encode()
    at %= len(ids) + 1
    first, second = TextStream(TOKENIZER, stops), TextStream(TOKENIZER, stops)
    shown = "".join(first.add([token]) for token in ids[:at])
    for token in ids[:at]:
        second.add([token])
    assert second.stopped == first.stopped
    assert shown + show(second, [[token] for token in ids[at:]]) == cut(text, stops)
