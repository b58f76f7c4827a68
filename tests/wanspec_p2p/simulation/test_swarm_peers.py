from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.models.base import Tokenizer
from wanspec_p2p.simulation.laws import VOCAB_SIZE
from wanspec_p2p.simulation.swarm_peers import SimulatedTokenizer


@given(st.lists(st.integers(0, VOCAB_SIZE - 1)))
def test_text_and_ids_are_the_same_thing(ids: list[int]) -> None:
    tokenizer: Tokenizer = SimulatedTokenizer("f" * 64)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    assert "".join(tokenizer.piece(token) for token in ids) == tokenizer.decode(ids)


def test_a_chat_is_its_contents() -> None:
    tokenizer = SimulatedTokenizer("f" * 64)
    messages = [("user", tokenizer.decode([1, 2])), ("assistant", tokenizer.decode([3]))]
    assert tokenizer.encode_chat(messages) == [1, 2, 3]
    assert tokenizer.fingerprint == "f" * 64
