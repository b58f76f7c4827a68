from __future__ import annotations

import subprocess

import pytest

from tests.support.hash_seeds import printed_under


def test_a_program_runs_once_under_each_hash_seed_and_finds_the_sources() -> None:
    program = "import os, wanspec_p2p; print(os.environ['PYTHONHASHSEED'])"
    assert printed_under(program, "1", "77") == [b"1\n", b"77\n"]


def test_sets_of_text_differ_in_order_between_hash_seeds() -> None:
    program = "print(list({str(i) for i in range(50)}))"
    first, again, other = printed_under(program, "1", "1", "2")
    assert first == again != other


def test_a_program_that_fails_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        printed_under("raise SystemExit(3)", "1")
